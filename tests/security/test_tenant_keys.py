"""Tenants at the doors: what a tenant's key opens, what it doesn't, and what nobody learns."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from kelm import limits
from kelm.clock import ManualClock
from kelm.kernel.keys import Keys
from kelm.serve.access import Access, Identity, is_operators
from kelm.serve.app import create_app
from kelm.serve.gate import PUBLIC
from serve_kit import ToyKernel, ToyStore, client_of, settings, toy_app, toy_model

TOKEN = "the-daemons-own-token"
ADMIN = "sk-admin"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def kernel(tmp_path: Path) -> ToyKernel:
    info = {"tasks": ["generate", "embed", "classify"], "labels": ["a", "b"]}
    return ToyKernel({"toy": toy_model(tmp_path / "toy", **info)})


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "home")


def app_of(tmp_path: Path, kernel: ToyKernel, keys: Keys, api_key: str | None = None, trusting: bool = True) -> FastAPI:
    access = Access(api_key, keys, TOKEN, trusting=trusting)
    return create_app(kernel, ToyStore(kernel), settings(tmp_path), ManualClock(1.8e9), access)


@pytest.fixture
async def http(tmp_path: Path, kernel: ToyKernel, keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_of(tmp_path, kernel, keys)) as client:
        yield client


def prompt(**more: object) -> dict[str, object]:
    return {"model": "toy", "prompt": "hello", "max_tokens": 2, **more}


async def test_the_first_key_closes_the_doors_at_once(http: httpx.AsyncClient, keys: Keys, kernel: ToyKernel) -> None:
    assert (await http.post("/v1/completions", json=prompt())).status_code == 200
    _, text = keys.create("alice")
    for headers in ({}, bearer("sk-kelm-00000000-x"), bearer("anything")):
        response = await http.post("/v1/completions", json=prompt(), headers=headers)
        assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
    assert (await http.post("/v1/completions", json=prompt(), headers=bearer(text))).status_code == 200
    assert [request.tenant for request in kernel.submitted] == ["local", "alice"]


async def test_a_revoked_key_is_refused_with_the_next_request_and_the_doors_stay_closed(
    http: httpx.AsyncClient, keys: Keys
) -> None:
    key, text = keys.create("alice")
    assert (await http.get("/v1/models", headers=bearer(text))).status_code == 200
    Keys(keys._path.parent).revoke(key.id)
    gone = await http.get("/v1/models", headers=bearer(text))
    assert gone.status_code == 401
    assert "revoked" in gone.json()["error"]["message"] and "kelm key create" in gone.json()["error"]["message"]
    assert (await http.get("/v1/models")).status_code == 401


async def test_every_door_of_the_operator_is_closed_to_tenants_and_every_other_open(
    http: httpx.AsyncClient, keys: Keys, tmp_path: Path, kernel: ToyKernel
) -> None:
    _, text = keys.create("alice")
    doors = set()
    for route in toy_app(tmp_path, kernel).routes:
        path = re.sub(r"\{.*?\}", "1", getattr(route, "path", ""))
        doors |= {(method, path) for method in getattr(route, "methods", None) or ()}
    assert len({path for _, path in doors if is_operators(path)}) >= 8
    for method, path in sorted(doors):
        response = await http.request(method, path, headers=bearer(text))
        closed = path.startswith("/admin") or path == "/metrics"
        assert (response.status_code == 403) == closed, (method, path, response.text)
        assert is_operators(path) == closed
        if closed and method != "HEAD":
            assert "KELM_API_KEY" in response.json()["error"]["message"]
        anonymous = await http.request(method, path)
        assert anonymous.status_code == (200 if path in PUBLIC else 401), (method, path)
    assert not kernel.shutdown_requested.is_set()


SPELLINGS = [
    *("/admin//processes", "/admin/../admin/processes", "/Admin/processes", "/admin/processes/"),
    *("/admin%2fprocesses", "/metrics/", "/%61dmin/processes", "/.//admin/processes"),
]


@pytest.mark.parametrize("path", SPELLINGS)
async def test_other_spellings_of_an_operators_door_open_nothing(
    http: httpx.AsyncClient, keys: Keys, path: str
) -> None:
    _, text = keys.create("alice")
    response = await http.get(path, headers=bearer(text))
    assert response.status_code in (403, 404) and set(response.json()) == {"error"}


async def test_the_operator_has_two_keys_and_is_the_local_tenant(tmp_path: Path, kernel: ToyKernel, keys: Keys) -> None:
    _, text = keys.create("alice")
    async with client_of(app_of(tmp_path, kernel, keys, ADMIN)) as http:
        for key in (ADMIN, TOKEN):
            assert (await http.get("/admin/processes", headers=bearer(key))).status_code == 200
            assert (await http.post("/v1/completions", json=prompt(), headers=bearer(key))).status_code == 200
        assert (await http.get("/v1/models", headers=bearer(text))).status_code == 200
        assert (await http.get("/v1/models", headers=bearer(ADMIN + "x"))).status_code == 401
    assert {request.tenant for request in kernel.submitted} == {"local"}


async def test_with_the_daemons_key_alone_everybody_needs_it(tmp_path: Path, kernel: ToyKernel, keys: Keys) -> None:
    async with client_of(app_of(tmp_path, kernel, keys, ADMIN)) as http:
        for path in ("/v1/models", "/admin/processes"):
            assert (await http.get(path)).status_code == 401
            assert (await http.get(path, headers=bearer(ADMIN))).status_code == 200


async def test_off_loopback_no_door_is_open_without_a_key_even_when_none_exists(
    tmp_path: Path, kernel: ToyKernel, keys: Keys
) -> None:
    async with client_of(app_of(tmp_path, kernel, keys, trusting=False)) as http:
        assert (await http.get("/v1/models")).status_code == 401
        assert (await http.get("/v1/models", headers=bearer(TOKEN))).status_code == 200


async def test_keys_that_cannot_be_read_let_in_the_operator_only(
    http: httpx.AsyncClient, keys: Keys, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "keys.db").write_bytes(b"rubbish " * 2000)
    for headers in ({}, bearer("sk-kelm-00000000-x")):
        assert (await http.get("/v1/models", headers=headers)).status_code == 500
    assert (await http.get("/v1/models", headers=bearer(TOKEN))).status_code == 200


DOORS = {
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
    "/v1/embeddings": {"input": "a"},
    "/classify": {"input": "a"},
    "/score": {"text_1": "a", "text_2": "b"},
    "/rerank": {"query": "a", "documents": ["b"]},
}


@pytest.mark.parametrize("path", DOORS)
async def test_the_tenant_and_the_priority_travel_with_every_request(
    http: httpx.AsyncClient, keys: Keys, kernel: ToyKernel, path: str
) -> None:
    _, text = keys.create("alice")
    body = {"model": "toy", **DOORS[path], "priority": 4}
    assert (await http.post(path, json=body, headers=bearer(text))).status_code == 200
    assert [(origin.tenant, origin.priority) for origin in kernel.entered] == [("alice", 4)]
    (request,) = [*kernel.submitted, *kernel.encoded]
    assert (request.tenant, request.pid) == ("alice", 1)


@pytest.mark.parametrize("path", DOORS)
async def test_only_the_operator_may_go_before_everybody_else(
    http: httpx.AsyncClient, keys: Keys, kernel: ToyKernel, path: str
) -> None:
    _, text = keys.create("alice")
    body = {"model": "toy", **DOORS[path], "priority": -1}
    refused = await http.post(path, json=body, headers=bearer(text))
    assert refused.status_code == 403 and refused.json()["error"]["param"] == "priority"
    assert kernel.entered == []
    assert (await http.post(path, json=body, headers=bearer(TOKEN))).status_code == 200


async def test_bad_input_at_the_operators_doors(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    await http.post("/v1/completions", json=prompt())
    most = int(limits.PRIORITY.most)
    for pid, body, status, word in (
        ("1", {"priority": 5}, 200, ""),
        ("1", {"priority": most + 1}, 400, f"between {-most} and {most}"),
        ("1", {"priority": "5"}, 400, "integer"),
        ("1", {}, 400, "required"),
        ("1", {"priority": 1, "more": 2}, 400, "unknown field"),
        ("77", {"priority": 1}, 404, "77"),
        ("x", {"priority": 1}, 400, "pid"),
        ("0", {"priority": 1}, 400, "pid"),
        ("-1", {"priority": 1}, 400, "pid"),
        ("9" * 30, {"priority": 1}, 400, "pid"),
    ):
        response = await http.post(f"/admin/processes/{pid}/nice", json=body)
        assert response.status_code == status and word in response.text, (pid, body, response.text)
    for pid, status in (("1", 200), ("77", 404), ("x", 400), ("1.5", 400)):
        assert (await http.get(f"/admin/processes/{pid}/why")).status_code == status


def test_nobody_is_whoever_asks_a_public_door() -> None:
    assert Identity().operator and Identity().tenant == "local"
    assert all(not is_operators(path) for path in PUBLIC)
