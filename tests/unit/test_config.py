"""Order of sources, unknown names, bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from kelm import limits, machine
from kelm.config import OPTIONS, load_settings, parse_memory, shown
from kelm.errors import ConfigError


def load(tmp_path: Path, yaml: str = "", env: dict[str, str] | None = None, **flags: object):
    (tmp_path / "config.yaml").write_text(yaml)
    return load_settings(flags, {"KELM_HOME": str(tmp_path), **(env or {})})


def test_each_source_wins_over_the_next(tmp_path: Path) -> None:
    for flags, env, yaml, want in (
        ({"port": 1}, {"KELM_PORT": "2"}, "port: 3", (1, "flag")),
        ({"port": None}, {"KELM_PORT": "2"}, "port: 3", (2, "environment")),
        ({}, {"KELM_PORT": ""}, "port: 3", (3, "file")),
        ({}, {}, "", (8420, "default")),
    ):
        settings = load(tmp_path, yaml, env, **flags)
        assert (settings.port, settings.sources["port"]) == want


def test_every_setting_has_all_three_spellings(tmp_path: Path) -> None:
    given = {
        "host": "localhost",
        "port": 1234,
        "dtype": "float32",
        "executor": "torch",
        "threads": 3,
        "memory": "1GiB",
        "job_threads": 2,
        "job_memory": "2GiB",
        "max_num_seqs": 7,
        "max_queued": 8,
        "step_tokens": 64,
        "api_key": "sk-x",
        "drain_s": 0.5,
        "log_level": "debug",
    }
    assert set(given) == set(OPTIONS) - {"home"}
    by_flag = load(tmp_path, **given)
    by_env = load(tmp_path, env={f"KELM_{name.upper()}": str(value) for name, value in given.items()})
    by_file = load(tmp_path, "\n".join(f"{name}: {value}" for name, value in given.items()))
    assert by_flag == by_env == by_file
    assert by_flag.memory == 1 << 30 and by_flag.home == tmp_path


@pytest.mark.parametrize(
    ("yaml", "env", "flags", "words"),
    [
        ("prot: 1", {}, {}, ["unknown key in", "prot", "did you mean port?"]),
        ("", {"KELM_THREDS": "1"}, {}, ["KELM_THREDS", "KELM_THREADS"]),
        ("", {}, {"max_num_seq": 1}, ["max_num_seq", "max_num_seqs"]),
        ("home: /x", {}, {}, ["home", "KELM_HOME"]),
        ("- a", {}, {}, ["mapping"]),
        ("a: [", {}, {}, ["not YAML"]),
        ("port: true", {}, {}, ["config.yaml: port", "an integer", "True"]),
        ("", {"KELM_PORT": "http"}, {}, ["KELM_PORT", "'http'"]),
        ("", {"KELM_PORT": "65536"}, {}, ["KELM_PORT", "65535", "65536"]),
        ("", {"KELM_DTYPE": "float23"}, {}, ["float23", "did you mean float32"]),
        ("", {"KELM_DRAIN_S": "nan"}, {}, ["KELM_DRAIN_S", "nan"]),
        ("", {"KELM_MEMORY": "lots"}, {}, ["KELM_MEMORY", "8GiB"]),
        ("", {"KELM_HOST": "a b"}, {}, ["KELM_HOST"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, yaml: str, env: dict, flags: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, yaml, env, **flags)
    assert all(word in caught.value.message for word in words), caught.value.message


def test_the_key_is_never_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, env={"KELM_API_KEY": "sk-secret"})
    assert settings.api_key == "sk-secret"
    assert "sk-secret" not in repr(settings) + str(shown(settings))


def test_memory_is_bytes_or_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_memory_bytes", lambda: 1000 << 20)
    assert parse_memory("8GiB") == 8 << 30
    assert parse_memory("1.5g") == 3 << 29
    assert parse_memory("512MB") == parse_memory(512 << 20) == 512 << 20
    assert parse_memory("50%") == parse_memory(0.5) == 500 << 20
    assert parse_memory(1) == 1000 << 20
    for bad in ("1%x", True, "-1", "0", "1M", None, "2000T", "nan"):
        with pytest.raises((ValueError, limits.InvalidRequest)):
            parse_memory(bad)


def test_a_container_is_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{64 << 20}\n")
    monkeypatch.setattr(machine, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(machine, "affinity_cores", lambda: 8)
    assert machine.default_threads() == 2
    assert machine.usable_memory_bytes() == 64 << 20
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.default_threads() == 8
    assert machine.cgroup_memory_bytes() is None
