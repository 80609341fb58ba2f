"""A small desk, and doors that answer by rule, for the tests of `kelm support` that need no model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from kelm.apps.support import desk as desks
from kelm.apps.support import index
from kelm.apps.support.answering import Answerer
from kelm.apps.support.app import create_app
from kelm.apps.support.calibration import Thresholds
from kelm.apps.support.database import Database
from kelm.apps.support.desk import Desk
from kelm.apps.support.doors import Intent
from kelm.apps.support.pages import Pages
from kelm.apps.support.service import Service
from kelm.apps.support.sessions import Agents
from kelm.apps.support.texts import stems
from kelm.clock import Clock, ManualClock
from kelm.errors import KelmError

EXAMPLE = Path(__file__).parents[1] / "examples" / "support"
KEY = "0123456789abcdefghijklmnop"
WIDTH = 64

FILES = {
    "desk.yaml": """
name: Corner Shop
models: {classifier: base@intents, embedding: words, chat: none}
handover: {intent: person, words: [人工]}
thresholds: {intent: 0.8, passage: 0.4}
""",
    "templates.yaml": r"""
slots:
  order: {pattern: '\bAB-(\d{4})\b', ask: {en: 'Which order?', zh: '哪个订单？'}}
  city: {pattern: '(?:Bern|Oslo)', ask: 'Which city?'}
answers:
  status: {en: 'Order {order} is on its way.', zh: '订单{order}在路上。'}
  visit: '{order} can be fetched in {city}.'
  greeting: Hello!
""",
    "intents.csv": "text,label\nwhere is it,status\nfetch it,visit\nhello,greeting\nhuman please,person\nelse,other\n",
    "articles/tea.md": (
        "# Tea\n\n## Storage\n\nKeep tea in a dry tin. It lasts 12 months.\n\n"
        "## Brewing\n\nGreen tea wants 80 degrees. Never boil it.\n"
    ),
    "articles/shop.md": "# Shop\n\nThe shop is open from Monday to Friday.\n",
    "articles/zh.md": "# 退货\n\n## 多久\n\n三十天内可以退货。打开的茶叶不能退货。\n",
}


def write_desk(folder: Path, **changed: str | None) -> Path:
    """The small desk; ``changed`` by file name with _ for . and / (None: left out): ``desk_yaml="..."``."""
    for name, text in FILES.items():
        new = changed.get(re.sub(r"[./]", "_", name), text)
        if new is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(new, encoding="utf-8")
    return folder


def copy_example(folder: Path, *edits: tuple[str, str]) -> Path:
    """The example desk, with ``edits`` (old, new) of its desk.yaml."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(".desk", "*.py"))
    path = folder / "desk.yaml"
    text = path.read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return folder


@dataclass
class ScriptedDoors:
    """Intents by the first word that a text has, vectors by its words, written answers by ``written``."""

    intents: dict[str, tuple[str, float]] = field(default_factory=dict)
    written: Callable[[str], str] | None = None
    complete: bool = True
    down: KelmError | None = None
    up: bool = True
    asked: list[str] = field(default_factory=list)
    """Names of the calls, in order."""
    prompts: list[str] = field(default_factory=list)

    async def unknown_share(self, model: str, text: str) -> float:
        self._called("unknown_share")
        return 1.0 if any("\u4e00" <= c <= "\u9fff" for c in text) else 0.0

    async def classify(self, model: str, texts: Sequence[str]) -> list[Intent]:
        self._called("classify")
        return [self._intent(text.casefold()) for text in texts]

    def _intent(self, text: str) -> Intent:
        return Intent(*next((found for word, found in self.intents.items() if word in text), ("other", 0.99)))

    async def embed(self, model: str, texts: Sequence[str]) -> np.ndarray:
        self._called("embed")
        return np.stack([bag(text) for text in texts])

    async def chat(self, model: str, messages: Sequence[dict[str, Any]]) -> tuple[str, bool]:
        self._called("chat")
        self.prompts.append("\n".join(message["content"] for message in messages))
        assert self.written is not None
        return self.written(self.prompts[-1]), self.complete

    def _called(self, name: str) -> None:
        self.asked.append(name)
        if self.down is not None:
            raise self.down


def bag(text: str) -> np.ndarray:
    """A unit vector of a text's words, the same in every process."""
    vector = np.zeros(WIDTH, np.float32)
    for stem in stems(text):
        vector[sum(stem.encode()) % WIDTH] += 1
    return vector / max(1.0, float(np.linalg.norm(vector)))


def read_desk(folder: Path, **changed: str | None) -> Desk:
    return desks.read(write_desk(folder, **changed))


async def make_answerer(
    folder: Path, doors: ScriptedDoors, thresholds: Thresholds | None = None, **changed: str | None
) -> Answerer:
    """Close its ``database`` at the end."""
    desk = read_desk(folder, **changed)
    database = Database(folder / ".desk")
    await database.write(lambda db: index.store(db, desk.passages))
    vectors = np.stack([bag(passage.embedded) for passage in desk.passages])
    known = thresholds or Thresholds(desk.wanted.intent or 0.8, desk.wanted.passage or 0.4)
    return Answerer(desk, doors, database, known, vectors)  # type: ignore[arg-type]


async def make_service(
    folder: Path, doors: ScriptedDoors, clock: Clock | None = None, **changed: str | None
) -> Service:
    answerer = await make_answerer(folder, doors, **changed)
    return Service(answerer.database, answerer, clock or ManualClock(1_800_000_000.0))


def make_app(service: Service, *, host: str = "127.0.0.1") -> FastAPI:
    return create_app(service, Pages(service.answerer.desk), Agents(KEY), host=host, clock=service.clock)


def client_of(app: FastAPI, **more: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8440", **more)


def events(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The data of server-sent events."""
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


@dataclass
class Live:
    """A running `kelm support`."""

    process: subprocess.Popen[str]
    url: str
    key: str
    said: list[str]
    """What it printed before it was ready."""

    @contextmanager
    def customer(self) -> Iterator[httpx.Client]:
        """Somebody who has opened the page."""
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as http:
            assert http.get("/").status_code == 200
            yield http

    @contextmanager
    def person(self) -> Iterator[httpx.Client]:
        """Somebody who has entered the key."""
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as http:
            assert http.post("/desk/api/enter", json={"key": self.key}).status_code == 200
            yield http


@contextmanager
def live(folder: Path, env: Mapping[str, str], *flags: str) -> Iterator[Live]:
    """`kelm support FOLDER` on a free port, ended by SIGTERM. Its log is beside the folder."""
    command = [sys.executable, "-m", "kelm.cli", "support", str(folder), "--port", "0", *flags]
    with (folder.parent / f"{folder.name}.log").open("a+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=dict(env))
        try:
            yield _opened(process, log.name)
        finally:
            process.terminate()
            assert process.stdout is not None
            process.stdout.close()
            process.wait(15)


def _opened(process: subprocess.Popen[str], log: str) -> Live:
    said: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line.strip())
        url, mark, key = line.strip().rpartition(" at ")[2].partition("/desk#")
        if mark:
            return Live(process, url, key, said)
    raise AssertionError("\n".join([*said, Path(log).read_text()]))


def ask(http: httpx.Client, text: str) -> dict[str, Any]:
    """The desk's reply to a message."""
    response = http.post("/api/messages", json={"text": text})
    assert response.status_code == 200, response.text
    return response.json()["messages"][-1]
