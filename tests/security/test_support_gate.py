"""The support desk from outside: who may come in, what a page may load, and that text stays text."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kelm import limits
from kelm.apps.support.gate import HEADERS
from kelm.apps.support.service import Service
from kelm.apps.support.sessions import AGENT, CUSTOMER, read_key
from kelm.errors import StoreError
from support_kit import EXAMPLE, KEY, ScriptedDoors, client_of, make_app, make_service

PAGES = EXAMPLE.parents[1] / "src" / "kelm" / "apps" / "support" / "files"
HOSTILE = [
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "'; DROP TABLE tickets; --", "{{7*7}}${7*7}",
    "</script><script>", "a\" OR title:b NEAR(c d) *", "%00%2e%2e/", "\u202e\u2028<b>", "javascript:alert(1)",
]  # fmt: skip


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    made = await make_service(tmp_path, ScriptedDoors({"where": ("status", 0.9)}))
    yield made
    made.database.close()


def routes(service: Service) -> list[tuple[str, str]]:
    found = []
    for route in make_app(service).routes:
        path = re.sub(r"\{.*?\}", "1", getattr(route, "path", ""))
        found += [(method, path) for method in getattr(route, "methods", None) or ()]
    return found


async def test_the_persons_page_needs_the_key_on_every_route(service: Service) -> None:
    await service.person("someone", "en")
    known = [(method, path) for method, path in routes(service) if path.startswith("/desk/api/")]
    assert len(known) == 5
    async with client_of(make_app(service)) as http:
        for cookie in ("", "wrong", KEY, "ä"):
            for method, path in known:
                if path == "/desk/api/enter":
                    continue
                headers = {"cookie": f"{AGENT}={cookie}".encode()} if cookie else {}
                response = await http.request(method, path, json={"text": "x"}, headers=headers)
                assert response.status_code == 401, (method, path)
        assert (await http.get("/desk")).status_code == 200
        assert "someone" not in (await http.get("/desk")).text
    assert (await service.ticket(1)).state == "open"


async def test_the_key_is_tried_a_few_times_only(service: Service) -> None:
    async with client_of(make_app(service)) as http:
        tries = int(limits.SUPPORT_LOGINS.value)
        codes = [(await http.post("/desk/api/enter", json={"key": f"guess{n}"})).status_code for n in range(tries + 1)]
        assert codes == [401] * tries + [429]
        assert (await http.post("/desk/api/enter", json={"key": KEY})).status_code == 429
        assert AGENT not in http.cookies


async def test_cookies_are_for_this_site_and_no_script(service: Service) -> None:
    async with client_of(make_app(service)) as http:
        given = [(await http.get("/")).headers["set-cookie"]]
        given.append((await http.post("/desk/api/enter", json={"key": KEY})).headers["set-cookie"])
    for cookie in given:
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert KEY not in given[1], "who reads the cookie does not have the key"
    assert len(given[0].partition("=")[2].partition(";")[0]) >= 43


async def test_one_customer_never_sees_another(service: Service) -> None:
    app = make_app(service)
    async with client_of(app) as one, client_of(app) as two, client_of(app) as nobody:
        await one.get("/")
        await two.get("/")
        await one.post("/api/messages", json={"text": "my secret"})
        assert (await two.get("/api/conversation")).json()["messages"] == []
        for path in ("/api/conversation", "/api/events"):
            assert (await nobody.get(path)).status_code == 401
            for made_up in ("", "x", "a" * 21, "../../x" * 5, "a" * 65):
                assert (await nobody.get(path, headers={"cookie": f"{CUSTOMER}={made_up}"})).status_code == 401
    stored = await service.database.read(lambda db: db.execute("SELECT session FROM conversations").fetchone()[0])
    assert one.cookies[CUSTOMER] not in stored, "a digest: who reads the file can't speak for anybody"


async def test_hosts_and_origins(service: Service) -> None:
    async with client_of(make_app(service)) as http:
        for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0"):
            assert (await http.get("/", headers={"host": host})).status_code == 403
        for origin in ("http://evil.example", "null", "http://127.0.0.1:9"):
            for method, path in routes(service):
                response = await http.request(method, path, headers={"origin": origin}, json={})
                assert response.status_code == 403, (method, path)
        assert (await http.get("/", headers={"origin": "http://127.0.0.1:8440"})).status_code == 200
        assert (await http.get("/", headers={"host": "a b"})).status_code == 400
    async with client_of(make_app(service, host="0.0.0.0")) as http:
        assert (await http.get("/", headers={"host": "help.shop.example"})).status_code == 200


async def test_every_answer_has_the_policy(service: Service) -> None:
    async with client_of(make_app(service)) as http:
        answers = [
            await http.request(method, path, json={}) for method, path in routes(service) if "events" not in path
        ]
        answers.append(await http.get("/no/such/page"))
        answers.append(await http.get("/", headers={"host": "evil.example"}))
        answers.append(await http.put("/", json={}))
    assert {answer.status_code for answer in answers} >= {200, 401, 403, 404, 405}
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, answer.url
        assert "access-control-allow-origin" not in answer.headers
        assert not re.search(r'Traceback|/home|/root|0x[0-9a-f]{6,}|File "', answer.text)
    assert "'unsafe" not in HEADERS["content-security-policy"]
    assert HEADERS["content-security-policy"].startswith("default-src 'none'")


class Loads(HTMLParser):
    """What a page loads, and what is written into it that a policy would have to allow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [given[name] or "" for name in ("src", "href") if name in given and tag != "a"]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        self._script = tag == "script" and given.get("type") != "application/json"

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.inline.append(data)


async def test_pages_load_our_own_files_only(service: Service) -> None:
    async with client_of(make_app(service)) as http:
        for page in ("/", "/desk", "/articles/tea"):
            parser = Loads()
            parser.feed((await http.get(page)).text)
            assert parser.inline == []
            assert parser.found and all(re.fullmatch(r"/files/[a-z]+\.(css|js|svg)", each) for each in parser.found)
            for each in parser.found:
                assert (await http.get(each)).status_code == 200
    for path in PAGES.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)[^\s\"']+", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function", text), (
            path.name
        )


async def test_only_the_desks_files_are_given_out(service: Service) -> None:
    async with client_of(make_app(service)) as http:
        for name in ("customer.html", "..%2fapp.py", "%2e%2e%2fapp.py", ".desk", "desk.css/", "", "nul%00"):
            assert (await http.get(f"/files/{name}")).status_code == 404, name
        for name in ("nothing", "..%2fdesk", "..%2f..%2fdesk.yaml", "tea.md", "%00"):
            assert (await http.get(f"/articles/{name}")).status_code == 404, name


@pytest.mark.parametrize("text", HOSTILE)
async def test_text_stays_text(service: Service, text: str) -> None:
    app = make_app(service)
    async with client_of(app) as customer, client_of(app) as person:
        await customer.get("/")
        await person.post("/desk/api/enter", json={"key": KEY})
        state = (await customer.post("/api/messages", json={"text": text})).json()
        assert state["messages"][0]["text"] == text.replace("\x00", "")
        assert (state["messages"][1]["made"]["route"], state["ticket"]) == ("handover", "open")
        ticket = (await person.get("/desk/api/tickets")).json()["tickets"][0]
        assert ticket["question"] == text
        await person.post(f"/desk/api/tickets/{ticket['id']}/reply", json={"text": text})
        assert (await customer.get("/api/conversation")).json()["messages"][-1]["text"] == text
        response = await customer.get("/", params={"lang": text})
        assert response.status_code == 200 and text not in response.text
    tables = await service.database.read(lambda db: db.execute("SELECT count(*) FROM tickets").fetchone()[0])
    assert tables == 1


async def test_the_desks_own_name_is_escaped_too(tmp_path: Path) -> None:
    name = "A</script><script>alert(1)</script>&"
    made = await make_service(tmp_path, ScriptedDoors(), desk_yaml=f"name: '{name}'\nmodels: {{}}\n")
    async with client_of(make_app(made)) as http:
        for page in ("/", "/desk", "/articles/tea"):
            text = (await http.get(page)).text
            assert "<script>alert" not in text
            known = re.search(r'id="known">(.*?)</script>', text, re.S)
            assert known is None or json.loads(known[1])["lang"] == "en"
    made.database.close()


BAD: list[tuple[bytes, str, int]] = [
    (b'{"text": "x"}', "text/plain", 400), (b"text=x", "application/x-www-form-urlencoded", 400), (b"", "", 400),
    (b"{", "application/json", 400), (b'{"text": 1}', "application/json", 400), (b"{}", "application/json", 400),
    (b'{"text": "x", "route": "template"}', "application/json", 400), (b'{"text": "\xff"}', "application/json", 400),
    (b"[" * 10_000, "application/json", 400), (b'{"text": "' + b"x" * 70_000 + b'"}', "application/json", 413),
    (b'{"text": "' + b"x" * 2001 + b'"}', "application/json", 400), (b'{"text": "\\u0000"}', "application/json", 400),
    (b'{"text": "\\ud800"}', "application/json", 400),
]  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "status"), BAD, ids=lambda value: str(value)[:30])
async def test_bodies_that_are_refused(service: Service, body: bytes, kind: str, status: int) -> None:
    async with client_of(make_app(service)) as http:
        await http.get("/")
        response = await http.post("/api/messages", content=body, headers={"content-type": kind} if kind else {})
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert (await http.get("/api/conversation")).json()["messages"] == []


@pytest.mark.parametrize("number", ["0", "-1", "1e3", "99999999999999999999", "x", "1;", "%31%00", "१"])
async def test_numbers_of_tickets(service: Service, number: str) -> None:
    async with client_of(make_app(service)) as http:
        await http.post("/desk/api/enter", json={"key": KEY})
        assert (await http.get(f"/desk/api/tickets/{number}")).status_code == 404
        await http.get("/")
        body = f'{{"message": {number}, "vote": "up"}}'.encode()
        sent = await http.post("/api/votes", content=body, headers={"content-type": "application/json"})
        assert sent.status_code in (400, 404)


def test_the_key_is_its_owners(tmp_path: Path) -> None:
    key = read_key(tmp_path)
    assert read_key(tmp_path) == key and len(key) >= 32
    assert (tmp_path / "agents.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["agents.key"]
    (tmp_path / "agents.key").write_text("short")
    with pytest.raises(StoreError, match="holds no key"):
        read_key(tmp_path)


async def test_sessions_from_one_address_are_slowed_down(service: Service) -> None:
    app = make_app(service)
    codes: list[Any] = []
    for _ in range(int(limits.SUPPORT_NEW_SESSIONS.value) + 1):
        async with client_of(app) as http:
            codes.append((await http.get("/")).status_code)
    assert codes == [200] * (len(codes) - 1) + [429]
