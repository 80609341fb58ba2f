"""The pages: HTML by Jinja with everything escaped, scripts and styles from our own files, words in two languages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from kelm import limits
from kelm.apps.support.desk import Desk
from kelm.apps.support.texts import Language, language_of
from kelm.apps.support.words import WORDS, preferred
from kelm.errors import NotFound

_FILES = Path(str(resources.files("kelm.apps.support") / "files"))
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_TAGS: Mapping[Language, str] = {"en": "en", "zh": "zh-Hans"}


class Pages:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._jinja = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_FILES), autoescape=True, undefined=jinja2.StrictUndefined
        )
        self._files = {path.name: path.read_bytes() for path in _FILES.iterdir() if path.suffix in _TYPES}

    def language(self, request: Request) -> Language:
        """By the address (``?lang=zh``), else the browser's languages, else the desk's own."""
        asked = request.query_params.get("lang", "")
        if asked in WORDS:
            return "zh" if asked == "zh" else "en"
        return preferred(request.headers.get("accept-language", ""), self._desk.language)

    def customer(self, request: Request) -> Response:
        return self._page("customer.html", self.language(request))

    def desk(self, request: Request) -> Response:
        return self._page("desk.html", self.language(request))

    def article(self, request: Request, name: str) -> Response:
        """Raises NotFound. An article is in its own language, whatever the page's."""
        article = self._desk.articles.get(name)
        if article is None:
            raise NotFound("there is no such article")
        tag = _TAGS[language_of(article.passages[0].text)]
        return self._page("article.html", self.language(request), article=article, article_tag=tag)

    def file(self, name: str) -> Response:
        """Raises NotFound."""
        raw = self._files.get(name)
        if raw is None:
            raise NotFound("there is no such file")
        return Response(raw, headers={"cache-control": "no-cache"}, media_type=_TYPES[Path(name).suffix])

    def _page(self, name: str, language: Language, **more: object) -> Response:
        words = WORDS[language]
        known = _block({"words": words, "lang": language})
        most = limits.SUPPORT_MESSAGE_CHARS.most
        template = self._jinja.get_template(name)
        return HTMLResponse(
            template.render(desk=self._desk, words=words, tag=_TAGS[language], most=most, known=known, **more)
        )


def _block(value: object) -> str:
    """JSON for a <script type="application/json">: nothing in it can end the element."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
