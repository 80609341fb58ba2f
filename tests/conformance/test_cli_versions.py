"""kelm versions, update, publish, rollback from a person's shell, with a daemon and without; and the example."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from safetensors.numpy import load_file, save_file

from daemon_kit import SRC, Daemon, daemon, environment
from kelm.store import Store
from kelm.store.difference import Tensors, write_delta
from kelm.testing.checkpoints import write_llama

EXAMPLE = SRC.parent / "examples" / "versions.py"
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("versions")
    Store(folder / "home").import_folder(write_llama(folder / "toy"), "toy")
    return folder / "home"


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[Daemon]:
    with daemon(home) as found:
        yield found


def kelm(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kelm.cli", *args]
    env = {name: value for name, value in environment(home).items() if name != "KELM_PORT"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)


def ok(home: Path, *args: str) -> str:
    done = kelm(home, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def delta(home: Path, name: str, share: float) -> str:
    store, chance = Store(home), np.random.default_rng(len(name))
    base = store.resolve("toy")
    old = dict(Tensors(store.paths(base)))
    change = chance.standard_normal(old[DOWN].shape) * (chance.random(old[DOWN].shape) < share)
    write_delta(home.parent / name, base.digest, old, {**old, DOWN: old[DOWN] + change.astype(np.float32)})
    return str(home.parent / name)


def adapter(home: Path) -> str:
    folder, chance = home.parent / "adapter", np.random.default_rng(4)
    folder.mkdir()
    module = "base_model.model." + DOWN.removesuffix(".weight")
    a, b = chance.standard_normal((4, 64)), chance.standard_normal((32, 4))
    tensors = {f"{module}.lora_A.weight": a.astype(np.float32), f"{module}.lora_B.weight": b.astype(np.float32)}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    return str(folder)


def test_a_variants_life_without_a_daemon(home: Path) -> None:
    sparse, dense, low_rank = delta(home, "sparse", 0.1), delta(home, "dense-", 1.0), adapter(home)
    assert re.fullmatch(
        r"toy@a:1 is published: low_rank, [\d.]+ KiB, over toy\n", ok(home, "update", "toy@a", low_rank)
    )
    told = ok(home, "update", "toy@a", sparse, "--note", "typos of may")
    assert re.fullmatch(r"toy@a:2 is published: sparse, [\d.]+ KiB, over version 1\n", told)
    told = ok(home, "update", "toy@a", dense, "--no-publish", "--parent", "0")
    assert re.fullmatch(r"toy@a:3 waits for `kelm publish toy@a:3`: dense, [\d.]+ KiB, over toy\n", told)
    rows = [re.split(r"  +", line.strip()) for line in ok(home, "versions", "toy@a").splitlines()]
    assert rows[0] == ["VERSION", "PARENT", "KIND", "SIZE", "ADDED", "EVALUATION", "NOTE"]
    assert [row[:3] for row in rows[1:]] == [["1", "0", "low_rank"], ["2", "1", "sparse"], ["3", "0", "dense"]]
    assert [row[-1] == "current" for row in rows[1:]] == [False, True, False] and rows[2][-2] == "typos of may"
    as_json = json.loads(ok(home, "versions", "toy@a", "--json"))
    assert as_json["current"] == 2 and [version["kind"] for version in as_json["versions"]] == [
        row[2] for row in rows[1:]
    ]
    assert ok(home, "publish", "toy@a:3") == "toy@a is version 3 now\n"
    assert ok(home, "rollback", "toy@a") == "toy@a is version 2 now\n"
    assert ok(home, "rollback", "toy@a") == "toy@a is version 1 now\n"
    listed = {line.split()[0]: line for line in ok(home, "list").splitlines()}
    assert listed["toy@a"].endswith("version 1, low_rank")
    shown = json.loads(ok(home, "show", "toy@a", "--json"))
    assert shown["version"] == 1 and shown["base"] == "toy:latest" and "1/adapter_config.json" in shown["files"]


def test_what_is_refused_says_what_to_do(home: Path) -> None:
    good = delta(home, "good", 0.1)
    ok(home, "update", "toy@r", good)
    wrong = home.parent / "wrong"
    save_file({DOWN: np.full((32, 64), np.nan, np.float32)}, wrong, {"format": "kelm-delta", "base": "sha256:0"})
    for args, status, words in (
        (["rollback", "toy@r"], 2, "nothing to go back to"),
        (["rollback", "toy@r:1"], 2, "`kelm publish toy@r:1` goes to this one"),
        (["publish", "toy@r"], 2, "names no version; it is written model@variant:N"),
        (["publish", "toy@r:9"], 1, "there is no version 9 of toy@r: it has 1 to 1"),
        (["update", "toy", good], 2, "toy is not a variant's name; it is written model@variant"),
        (["update", "toy@r", str(wrong)], 1, "make it from this base"),
        (["versions", "toy@q"], 1, "there is no model toy@q here; did you mean toy@r"),
        (["rm", "toy"], 2, "toy has variants: `kelm rm toy@"),
    ):
        done = kelm(home, *args)
        assert done.returncode == status and done.stderr.startswith("kelm: ") and words in done.stderr, done.stderr
    assert len(Store(home).history("toy@r").versions) == 1
    assert ok(home, "rm", "toy@r") == "toy@r was removed\n"


def test_a_checkpoint_is_laid_over_its_base(home: Path) -> None:
    folder = home.parent / "tuned"
    write_llama(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[DOWN] = tensors[DOWN] * np.float32(1.5)
    save_file(tensors, folder / "model.safetensors")
    assert "dense" in ok(home, "update", "toy@tuned", str(folder))
    version = Store(home).resolve("toy@tuned").version
    assert version.overrides == {}, "the config and the tokenizer are the base's own"


def complete(client: openai.OpenAI, model: str, **more: Any) -> Any:
    return client.completions.create(
        model=model, prompt="hello", temperature=0, extra_body={"ignore_eos": True}, **{"max_tokens": 12, **more}
    )


def test_a_daemon_serves_the_new_version_at_the_next_request(home: Path, running: Daemon) -> None:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any")
    ok(home, "update", "toy@live", delta(home, "one", 0.2))
    first = complete(client, "toy@live")
    assert first.model == "toy@live:1" and first.choices[0].text != complete(client, "toy").choices[0].text
    assert {"toy:latest", "toy:latest@live"} <= {model.id for model in client.models.list()}
    undisturbed = "".join(chunk.choices[0].text for chunk in complete(client, "toy@live", max_tokens=300, stream=True))
    stream = complete(client, "toy@live", max_tokens=300, stream=True)
    chunks = [next(stream)]
    reading = threading.Thread(target=lambda: chunks.extend(stream))
    reading.start()
    assert "over version 1" in ok(home, "update", "toy@live", delta(home, "two---", 1.0))
    second = complete(client, "toy@live")
    assert second.model == "toy@live:2" and second.choices[0].text != first.choices[0].text
    reading.join(60)
    assert "".join(chunk.choices[0].text for chunk in chunks) == undisturbed
    assert {chunk.model for chunk in chunks} == {"toy@live:1"}
    ok(home, "rollback", "toy@live")
    for name, wanted in (("toy@live", first), ("toy:latest@live:2", second), ("toy@live:1", first)):
        made = complete(client, name)
        assert (made.model, made.choices[0].text) == (wanted.model, wanted.choices[0].text)
    rows = {row["name"]: row for row in json.loads(ok(home, "ps", "--models", "--json"))}
    assert rows["toy:latest@live:2"]["base"] == "toy:latest" and rows["toy:latest@live:2"]["shared_bytes"] > 0
    assert re.search(r"toy@live:2 .*KiB +[\d.]+ KiB", ok(home, "ps", "--models"))
    assert kelm(home, "rm", "toy@live").stderr == "kelm: toy@live is in memory: `kelm stop toy@live` first\n"
    gone = ok(home, "stop", "toy").splitlines()
    assert gone[-1] == "toy was unloaded" and {"toy@live:1 was unloaded", "toy@live:2 was unloaded"} <= set(gone)
    assert ok(home, "rm", "toy@live") == "toy@live was removed\n"
    with pytest.raises(openai.NotFoundError, match="there is no model toy@live here"):
        complete(client, "toy@live")


def test_the_example(home: Path, running: Daemon) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 80
    env = {**environment(home), "OPENAI_BASE_URL": f"{running.url}/v1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "toy"], env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    answers = [tuple(line.split(maxsplit=1)) for line in lines if line.startswith("toy")]
    base, one, two, three, back, pinned = answers
    assert [name for name, _ in answers] == ["toy", *(f"toy@example:{n}" for n in (1, 2, 3, 2, 3))]
    assert len({base[1], one[1], two[1], three[1]}) == 4 and back == two and pinned == three
    assert "updated to version 2: sparse, over version 1" in lines
    assert "updated to version 3: dense, over version 2" in lines
    assert "the stream that ran meanwhile was answered by toy@example:1 to its end" in lines
    assert "rolled back to version 2" in lines
