"""Who runs, through the sockets of a real daemon with real models: tenants 2:1, an urgent request, two models that do
not fit together, and what the command line says of all that."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon_kit import Daemon, daemon, environment
from kelm.store import Store
from kelm.testing.checkpoints import Shape, write_llama

EXAMPLE = Path(__file__).parents[2] / "examples" / "schedule.py"
LARGE = Shape(hidden_size=448, intermediate_size=896, num_hidden_layers=4)
"""About 30 MB of float32: of a budget of 64 MiB a quarter is KV, and a second one does not fit."""


@dataclass
class Place:
    daemon: Daemon
    home: Path
    keys: dict[str, str]

    @property
    def env(self) -> dict[str, str]:
        return {name: value for name, value in environment(self.home).items() if name != "KELM_PORT"}

    def kelm(self, *words: str, code: int = 0, port: int | None = None) -> str:
        argv = [sys.executable, "-m", "kelm.cli", *words]
        env = self.env if port is None else {**self.env, "KELM_PORT": str(port)}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def admin(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """An operator's door, with the token that the command line uses."""
        token = json.loads((self.home / "run" / "daemon.json").read_text())["token"]
        headers = {"authorization": f"Bearer {token}"}
        url = self.daemon.url + path
        answer = httpx.get(url, headers=headers) if body is None else httpx.post(url, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.text[:1] == "{" else answer.text

    def rows(self) -> list[dict[str, Any]]:
        return list(self.admin("/admin/processes")["processes"])

    def client(self, tenant: str) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.keys[tenant]}"}
        return httpx.AsyncClient(base_url=self.daemon.url, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("schedule")
    home = folder / "home"
    store = Store(home, packaged=home / "none")
    for seed, (name, shape) in enumerate({"small": Shape(), "one": LARGE, "two": LARGE}.items()):
        (folder / name).mkdir()
        store.import_folder(write_llama(folder / name, seed, shape), name)
    # Torch is slow enough for somebody to wait.
    with daemon(home, memory="64MiB", max_num_seqs=4, step_tokens=64, executor="torch") as running:
        made = Place(running, home, {})
        for tenant, weight in (("alice", "2"), ("bob", "1")):
            made.keys[tenant] = made.kelm("key", "create", tenant, "--weight", weight).strip()
        yield made


def body(model: str = "small", **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": "Once", "max_tokens": 40, "ignore_eos": True, "temperature": 0, **more}


async def complete(http: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    response = await http.post("/v1/completions", json=body(**more))
    assert response.status_code == 200, response.text
    return dict(response.json())


async def keep_asking(http: httpx.AsyncClient, number: int) -> None:
    lengths = (10, 40, 70)
    while True:
        await complete(http, max_tokens=lengths[number % 3], prompt="Once upon a time " * (1 + number % 4))
        number += 1


def served(place: Place) -> dict[str, int]:
    return {row["tenant"]: row["served_tokens"] for row in place.admin("/admin/tenants")["tenants"]}


async def test_two_tenants_are_served_as_their_weights_over_http(place: Place) -> None:
    async with place.client("alice") as alice, place.client("bob") as bob:
        asking = [asyncio.create_task(keep_asking(http, n)) for http in (alice, bob) for n in range(8)]
        await asyncio.to_thread(place.daemon.until, lambda: len(place.rows()) == 16)
        before = await asyncio.to_thread(served, place)
        await asyncio.to_thread(
            place.daemon.until, lambda: sum(served(place).values()) > sum(before.values()) + 3000, 60
        )
        after = await asyncio.to_thread(served, place)
        shown = await asyncio.to_thread(place.kelm, "ps", "--tenants")
        processes = await asyncio.to_thread(place.rows)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    gained = {tenant: after[tenant] - before[tenant] for tenant in ("alice", "bob")}
    assert gained["alice"] / sum(gained.values()) == pytest.approx(2 / 3, abs=0.03)
    assert re.search(r"^alice +2 .* 67% +\d\d%$", shown, re.MULTILINE), shown
    assert {row["tenant"] for row in processes} == {"alice", "bob"}
    assert sum(row["state"] == "running" for row in processes) <= 4
    for name in ('kelm_tenant_tokens_total{tenant="alice"}', 'kelm_tenant_tokens_total{tenant="bob"}'):
        assert name in place.admin("/metrics")


def test_the_example(place: Place) -> None:
    env = {**place.env, "ALICE": place.keys["alice"], "BOB": place.keys["bob"]}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "small"],
        env={**env, "OPENAI_BASE_URL": f"{place.daemon.url}/v1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    urgent, others = map(float, re.search(r"took ([\d.]+) s, the others ([\d.]+) s", done.stdout).groups())  # type: ignore[union-attr]
    assert urgent < others
    for words in ("$ kelm ps\n", "$ kelm why", "$ kelm nice", "has priority -10", "TENANT", "waits for a row"):
        assert words in done.stdout, done.stdout
    assert len(EXAMPLE.read_text().splitlines()) < 80


async def test_a_tenant_finds_nothing_of_anothers_in_the_cache(place: Place) -> None:
    prompt = "a secret that is long enough to fill some blocks of the cache " * 2
    async with place.client("alice") as alice, place.client("bob") as bob:
        cached = [
            (await complete(http, prompt=prompt, max_tokens=1))["usage"]["prompt_tokens_details"]["cached_tokens"]
            for http in (alice, alice, bob, bob)
        ]
    assert cached[0] == cached[2] == 0 and cached[1] == cached[3] > 0


async def test_two_models_in_one_budget_while_a_stream_runs_on_a_third(place: Place) -> None:
    """The stream has the same tokens as alone; each model is evicted for the other and brought back."""
    async with place.client("alice") as alice:
        alone = (await complete(alice, max_tokens=300))["choices"][0]["text"]
        streaming = asyncio.create_task(complete(alice, max_tokens=300))
        first = [(await complete(alice, model=model, max_tokens=5))["choices"][0]["text"] for model in ("one", "two")]
        again = [(await complete(alice, model=model, max_tokens=5))["choices"][0]["text"] for model in ("one", "two")]
        assert (await streaming)["choices"][0]["text"] == alone
    assert first == again
    assert {row["name"] for row in place.admin("/admin/models")["models"]} == {"two:latest", "small:latest"}
    assert "two" in place.kelm("ps", "--models")
    metrics = place.admin("/metrics")
    assert 'kelm_model_evictions_total{model_name="one:latest"} 2.0' in metrics
    assert 'kelm_model_loads_total{model_name="one:latest"} 2.0' in metrics
    assert "kelm_worker_restarts_total 0.0" in metrics


async def test_an_urgent_request_overtakes_and_everybody_gets_the_same_tokens(place: Place) -> None:
    async with place.client("alice") as alice, place.client("bob") as bob:
        alone = (await complete(bob, max_tokens=400, prompt="x"))["choices"][0]["text"]
        many = [asyncio.create_task(complete(bob, max_tokens=400, prompt="x")) for _ in range(6)]
        await asyncio.to_thread(place.daemon.until, lambda: len(place.rows()) == 6)
        pid = max(row["pid"] for row in place.rows())
        why = place.admin(f"/admin/processes/{pid}/why")
        assert (why["state"], why["waits_for"], why["rows_max"]) == ("queued", "row", 4)
        assert why["ahead_by_arrival"] == 5
        assert place.admin(f"/admin/processes/{pid}/nice", {"priority": -7})["priority"] == -7
        await asyncio.to_thread(place.daemon.until, lambda: _states(place).get(pid) == "running")
        assert sorted(_states(place).values()) == ["parked", "queued", *["running"] * 4]
        assert [(await task)["choices"][0]["text"] for task in many] == [alone] * 6
        assert place.rows() == []
        assert "no process" in place.kelm("nice", str(pid), "-1", code=1)
        assert "no process" in place.kelm("why", str(pid), code=1)
        assert "between -1000 and 1000" in place.kelm("nice", str(pid), "1001", code=2)
        refused = await alice.post("/v1/completions", json=body(priority=-1))
        assert refused.status_code == 403
        assert (await alice.post("/v1/completions", json=body(priority=1001))).status_code == 400
        assert (await alice.get("/admin/processes")).status_code == 403


def _states(place: Place) -> dict[int, str]:
    return {row["pid"]: row["state"] for row in place.rows()}


async def test_a_killed_worker_changes_no_token_whatever_the_priorities(place: Place) -> None:
    async with place.client("alice") as alice, place.client("bob") as bob:
        clients = [(alice, 0), (bob, 3), (alice, 5), (bob, 0), (alice, 0), (bob, 9)]
        alone = (await complete(alice, max_tokens=150, prompt="y"))["choices"][0]["text"]
        asking = [
            asyncio.create_task(complete(http, max_tokens=150, prompt="y", priority=priority))
            for http, priority in clients
        ]
        await asyncio.to_thread(place.daemon.until, lambda: any(row["generated_tokens"] > 20 for row in place.rows()))
        before = await asyncio.to_thread(served, place)
        os.kill(place.admin("/admin/processes")["worker"]["pid"], signal.SIGKILL)
        assert [(await task)["choices"][0]["text"] for task in asking] == [alone] * 6
        await asyncio.to_thread(place.daemon.until, lambda: not place.rows())
        after = await asyncio.to_thread(served, place)
    assert all(after[tenant] >= before[tenant] for tenant in before)
    most = 3 * (150 + len("y"))
    assert sum(after.values()) - sum(before.values()) <= 2 * most, "what was computed before it died is charged again"


def test_keys_on_the_command_line(place: Place) -> None:
    made = json.loads(place.kelm("key", "create", "carol", "--json"))
    assert made["key"].startswith("sk-kelm-") and made["weight"] == 1
    listed = place.kelm("key", "list")
    assert "carol" in listed and made["key"] not in listed and made["key"].rpartition("-")[2] not in listed
    for words in (("create", "dave", "--weight", "0"), ("create", "dave", "--weight=-3"), ("create", "bad name")):
        assert "must be" in place.kelm("key", *words, code=2) or "letters" in place.kelm("key", *words, code=2)
    assert "alice" in place.kelm("ps", "--tenants", port=place.daemon.port), "its own daemon, named by its port"
    place.kelm("key", "revoke", made["id"])
    response = httpx.get(place.daemon.url + "/v1/models", headers={"authorization": f"Bearer {made['key']}"})
    assert response.status_code == 401 and "revoked" in response.text
    assert "there is no key" in place.kelm("key", "revoke", "nothere", code=1)
    assert {row["id"]: row["revoked"] is not None for row in json.loads(place.kelm("key", "list", "--json"))}[
        made["id"]
    ]
