"""Who may come in: keys, Host, Origin; on every route there is, and against tricks with paths and headers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kelm.errors import ConfigError
from kelm.serve import server
from kelm.serve.gate import PUBLIC, check_exposure
from serve_kit import ToyKernel, client_of, exchange, request_bytes, settings, status_of, toy_app, toy_model, toy_server

KEY = "sk-correct-horse"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "HEAD")


@pytest.fixture
def kernel(tmp_path: Path) -> ToyKernel:
    return ToyKernel({"toy": toy_model(tmp_path / "toy")})


@pytest.fixture
async def locked(tmp_path: Path, kernel: ToyKernel) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(toy_app(tmp_path, kernel, api_key=KEY)) as client:
        yield client


def routes(tmp_path: Path, kernel: ToyKernel) -> Iterator[tuple[str, str]]:
    for route in toy_app(tmp_path, kernel).routes:
        path = re.sub(r"\{.*?\}", "toy", getattr(route, "path", ""))
        for method in getattr(route, "methods", None) or ():
            yield method, path


async def test_every_route_needs_the_key_but_the_public_ones(
    locked: httpx.AsyncClient, tmp_path: Path, kernel: ToyKernel
) -> None:
    found = set(routes(tmp_path, kernel))
    assert len([path for _, path in found]) > 20
    assert ("GET", "/openapi.json") in found
    for method, path in found:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
            response = await locked.request(method, path, headers=headers)
            if path in PUBLIC:
                assert response.status_code == 200
            else:
                assert response.status_code == 401, f"{method} {path}"
                assert method == "HEAD" or response.json()["error"]["code"] == "invalid_api_key"
    assert kernel.submitted == []
    assert {path for _, path in found if path in PUBLIC} == PUBLIC


async def test_the_key_opens(locked: httpx.AsyncClient) -> None:
    for header in (f"Bearer {KEY}", f"bearer {KEY}", f"Bearer  {KEY} "):
        assert (await locked.get("/v1/models", headers={"authorization": header})).status_code == 200
    for header in (KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer ", "Bearer", f"Bearer {KEY.upper()}"):
        assert (await locked.get("/v1/models", headers={"authorization": header})).status_code == 401
    twice = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer wrong")]
    assert (await locked.get("/v1/models", headers=twice)).status_code == 401


async def test_without_keys_any_key_will_do(tmp_path: Path, kernel: ToyKernel) -> None:
    async with client_of(toy_app(tmp_path, kernel)) as http:
        for headers in ({}, {"authorization": "Bearer anything"}):
            assert (await http.get("/v1/models", headers=headers)).status_code == 200


async def test_paths_that_look_public_are_not(tmp_path: Path, kernel: ToyKernel) -> None:
    """The path that the key check sees is the path that routes are matched with."""
    paths = [
        "//v1/models", "/v1//models", "/health/../v1/models", "/health/%2e%2e/v1/models", "/v1/models/", "/V1/models",
        "/%76%31/models", "/v1/models?x=/health", "/v1/models;/health", "/v1/models%00", "/v1/models%2fhealth",
        "/health/", "/./v1/models", "http://127.0.0.1/v1/models", "http://evil/health", "/v1/models%3f/health",
    ]  # fmt: skip
    async with toy_server(tmp_path, kernel, api_key=KEY) as port:
        for path in paths:
            for host in ("127.0.0.1", "127.0.0.1/health?", "localhost#/health", "127.0.0.1:80@/health"):
                answer = await exchange(port, request_bytes("GET", path, host=host))
                allowed = path == "http://evil/health"
                assert status_of(answer) in ((200, 400) if allowed else (400, 401, 404)), (path, host, answer[:200])
                assert b"toy:latest" not in answer
        override = request_bytes("POST", "/health", x_http_method_override="GET", x_original_url="/v1/models")
        assert status_of(await exchange(port, override)) == 405


HOSTS = {
    400: ["", "a b", "127.0.0.1/", "127.0.0.1?", "127.0.0.1#x", "x@127.0.0.1", "127.0.0.1\\", "127.0.0.1:80:80",
          "127.0.0.1:x", "[::1", "[x]", "127.0.0.1:999999", "localhost,evil.com"],
    403: ["evil.com", "evil.com:8420", "127.0.0.1.evil.com", "localhost.evil.com", "0.0.0.0", "10.0.0.1",
          "[::2]", "2130706433", "0x7f.1", "metadata.google.internal"],
    200: ["127.0.0.1", "127.0.0.1:8420", "localhost", "LOCALHOST:1", "[::1]", "[::1]:8420", "127.0.0.2", "a.localhost",
          "localhost."],
}  # fmt: skip


@pytest.mark.parametrize(("status", "host"), [(status, host) for status, hosts in HOSTS.items() for host in hosts])
async def test_host_on_loopback(tmp_path: Path, kernel: ToyKernel, status: int, host: str) -> None:
    """A page that rebinds its own name to 127.0.0.1 still sends that name."""
    async with client_of(toy_app(tmp_path, kernel)) as http:
        response = await http.get("/v1/models", headers={"host": host})
    assert response.status_code == status
    assert status == 200 or set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_two_hosts_or_none(tmp_path: Path, kernel: ToyKernel) -> None:
    async with toy_server(tmp_path, kernel) as port:
        none = b"GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n"
        two = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: evil.com\r\nconnection: close\r\n\r\n"
        for data in (none, two):
            assert status_of(await exchange(port, data)) == 400


async def test_any_host_name_with_a_key_on_a_network(tmp_path: Path, kernel: ToyKernel) -> None:
    async with client_of(toy_app(tmp_path, kernel, host="0.0.0.0", api_key=KEY)) as http:
        good = {"authorization": f"Bearer {KEY}", "host": "models.example:8420"}
        assert (await http.get("/v1/models", headers=good)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/admin/shutdown", "/v1/chat/completions"])
async def test_scripts_of_other_origins(tmp_path: Path, kernel: ToyKernel, path: str) -> None:
    async with client_of(toy_app(tmp_path, kernel)) as http:
        for origin in ("http://evil.com", "null", "http://localhost:3000", "https://127.0.0.1.evil.com", "file://", ""):
            for method in ("GET", "POST", "OPTIONS"):
                response = await http.request(method, path, headers={"origin": origin})
                assert response.status_code == 403, (origin, method)
                assert not [name for name in response.headers if name.startswith("access-control")]
        own = await http.get("/health", headers={"origin": "http://127.0.0.1:8420"})
        assert own.status_code == 200
        assert "access-control-allow-origin" not in own.headers
    assert not kernel.shutdown_requested.is_set()


async def test_wrong_methods_everywhere(tmp_path: Path, kernel: ToyKernel) -> None:
    known = set(routes(tmp_path, kernel))
    async with client_of(toy_app(tmp_path, kernel)) as http:
        for path in sorted({path for _, path in known}):
            for method in METHODS:
                if (method, path) in known:
                    continue
                response = await http.request(method, path)
                assert response.status_code == 405, (method, path)
                assert response.headers["allow"]
                if method != "HEAD":
                    assert response.json()["error"]["code"] == "method_not_allowed"
    assert kernel.submitted == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "127.0.0.1.evil.com"])
def test_a_network_needs_a_key(tmp_path: Path, host: str) -> None:
    for key in (None, ""):
        with pytest.raises(ConfigError, match="KELM_API_KEY"):
            check_exposure(host, key)
    check_exposure(host, KEY)
    with pytest.raises(ConfigError):
        server.bind(settings(tmp_path, host=host, port=0))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_needs_none(host: str) -> None:
    check_exposure(host, None)


def leaks(text: str) -> list[Any]:
    return re.findall(r"0x[0-9a-f]{6,}|/home|/work|/tmp|/root|Traceback|File \"|\.py", text)


async def test_no_insides_in_errors(tmp_path: Path, kernel: ToyKernel) -> None:
    """What a bug of ours, or anybody's rubbish, says to a client."""
    kernel.models["toy"].files.clear()  # rendering a chat now fails inside
    chat = {"model": "toy", "messages": [{"role": "user", "content": "a"}]}
    bodies: list[tuple[str, Any]] = [
        ("/v1/chat/completions", chat), ("/v1/completions", {"model": "../../etc/passwd", "prompt": "a"}),
        ("/v1/completions", [object.__name__]), ("/v1/models/%2e%2e/x", None), ("/nowhere", None),
        ("/v1/completions", {"model": "toy", "prompt": {"a": "b"}}), ("/v1/embeddings", {"model": "toy", "input": "a"}),
    ]  # fmt: skip
    async with client_of(toy_app(tmp_path, kernel)) as http:
        for path, body in bodies:
            response = await http.post(path, json=body)
            assert response.status_code >= 400
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
            assert leaks(response.text) == [], response.text
        broken = await http.post("/v1/chat/completions", json=chat)
        assert broken.status_code in (422, 500)
