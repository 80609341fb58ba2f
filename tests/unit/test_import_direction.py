"""Imports run one way, like the data, and nothing in the house imports what it must not have.

The table is the design's: cli, apps -> serve -> kernel -> sched, memory; kernel -> worker only over a socket;
worker -> sched, memory, models -> ops; everyone -> store for weights; nobody imports serve or cli.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
FILES = sorted(SRC.rglob("*.py"))
SHARED = {"limits", "errors", "clock", "wire", "config", "machine", "suggest", "origin"}
PURE = {"limits", "errors", "wire"}
"""What a room without I/O and without a clock may see."""

MAY_IMPORT: dict[str, set[str]] = {
    "limits": {"errors"},
    "errors": set(),
    "clock": set(),
    "wire": {"limits", "errors"},
    "suggest": set(),
    "origin": set(),
    "machine": {"limits", "errors"},
    "config": {"limits", "errors", "machine", "suggest"},
    "context": SHARED | {"store"},
    "observe": SHARED,
    "memory": PURE,
    "sched": PURE | {"memory"},
    "ops": {"limits", "errors"},
    "store": SHARED,
    "text": SHARED | {"store"},
    "models": SHARED | {"ops", "store"},
    "worker": SHARED | {"memory", "models", "observe", "ops", "sched", "store", "text"},
    "kernel": SHARED | {"memory", "observe", "sched", "store", "text"},
    "serve": SHARED | {"kernel", "observe", "store", "text"},
    "cluster": SHARED | {"library", "memory", "models", "ops", "store", "text", "worker"},
    "replicas": SHARED | {"boot", "kernel", "origin", "serve", "store"},
    "tune": SHARED | {"context", "evaluate", "models", "observe", "ops", "store", "text"},
    "library": SHARED | {"store", "text", "worker"},
    "bench": SHARED | {"library", "ops"},
    "evaluate": {"limits", "errors", "suggest", "wire", "context", "library", "store", "text"},
    "compress": SHARED | {"context", "evaluate", "library", "models", "ops", "store", "text"},
    "jobs": SHARED | {"compress", "context", "evaluate", "store", "tune"},
    "boot": SHARED | {"kernel", "observe", "serve", "store", "text"},
    "apps": {"limits", "errors", "clock", "suggest", "origin", "text"},
    "doctor": SHARED | {"kernel", "ops", "store"},
    "cli": SHARED
    | {
        "apps",
        "bench",
        "boot",
        "cluster",
        "replicas",
        "compress",
        "doctor",
        "evaluate",
        "kernel",
        "library",
        "observe",
        "ops",
        "serve",
        "store",
        "text",
        "tune",
    },
    "testing": SHARED | {"kernel", "memory", "models", "observe", "ops", "sched", "store", "text", "worker"},
}
"""Room or top-level module -> rooms it may import besides itself. A new room starts by adding its row."""

TORCH_ROOMS = {
    "bench",
    "compress",
    "evaluate",
    "jobs",
    "models",
    "worker",
    "library",
    "ops",
    "tune",
    "cluster",
    "testing",
}
NO_TORCH = set(MAY_IMPORT) - TORCH_ROOMS
"""Rooms of the daemon and the command line: importing torch would cost them 2 s and 220 MB."""

HEAVY = {"torch", "transformers", "peft", "safetensors.torch", "accelerate", "tensorflow", "jax"}
CODE_FROM_DATA = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy"}


def room_of(module: str) -> str:
    """``kelm.serve.app`` -> ``serve``; the package itself -> ``kelm``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "kelm"


def module_of(path: Path) -> str:
    parts = list(path.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import statement, those inside functions too."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # `from kelm import store` imports the room, not the package only.
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def calls(path: Path) -> Iterator[tuple[int, ast.Call, str]]:
    """(line, call, its dotted name) of every call whose function is a plain dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node.lineno, node, ast.unparse(node.func)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(SRC)}:{line}"


def test_every_room_has_its_row() -> None:
    rooms = {room_of(module_of(path)) for path in FILES} - {"kelm"}
    assert rooms <= set(MAY_IMPORT), f"no row in the table: {sorted(rooms - set(MAY_IMPORT))}"


def test_imports_run_one_way() -> None:
    against = []
    for path in FILES:
        room = room_of(module_of(path))
        if room == "kelm":
            continue
        for line, module in imports(path):
            target = room_of(module)
            known = module.startswith("kelm.") and target in MAY_IMPORT
            if known and target != room and target not in MAY_IMPORT[room]:
                against.append(f"{where(path, line)}: {room} must not import {module}")
    assert not against, "\n".join(against)


def test_the_table_has_no_way_back() -> None:
    """Following the table from any room never comes back to it, so no import cycle can be legal."""
    for room in MAY_IMPORT:
        seen, pending = set(), list(MAY_IMPORT[room])
        while pending:
            target = pending.pop()
            if target not in seen:
                seen.add(target)
                pending.extend(MAY_IMPORT[target])
        assert room not in seen, f"{room} can reach itself"


def test_nobody_imports_the_doors() -> None:
    assert [room for room, targets in MAY_IMPORT.items() if "cli" in targets] == []
    assert {room for room, targets in MAY_IMPORT.items() if "serve" in targets} == {"cli", "boot", "replicas"}


def test_only_the_clock_imports_time() -> None:
    users = [where(p, line) for p in FILES for line, name in imports(p) if name.split(".")[0] == "time"]
    assert [user.split(":")[0] for user in users] == ["kelm/clock.py"], users


def test_nothing_loads_code_from_data() -> None:
    """No pickle in any spelling, no torch.load, no evaluated strings, no code from a model's folder."""
    found = [f"{where(p, n)}: {name}" for p in FILES for n, name in imports(p) if name.split(".")[0] in CODE_FROM_DATA]
    for path in FILES:
        for line, call, name in calls(path):
            remote = any(
                keyword.arg == "trust_remote_code" and getattr(keyword.value, "value", None) is not False
                for keyword in call.keywords
            )
            if remote or name in {"eval", "exec", "compile", "torch.load", "yaml.load", "__import__"}:
                found.append(f"{where(path, line)}: {name}")
    assert not found, "\n".join(found)


def test_rooms_of_the_daemon_name_neither_torch_nor_transformers() -> None:
    """Not inside a function either."""
    found = [
        f"{where(path, line)}: {name}"
        for path in FILES
        if room_of(module_of(path)) in NO_TORCH
        for line, name in imports(path)
        if any(name == heavy or name.startswith(heavy + ".") for heavy in HEAVY)
    ]
    assert not found, "\n".join(found)


def test_rooms_of_the_daemon_import_no_torch_through_others() -> None:
    """Every module of theirs is imported for real, in an interpreter where torch cannot be imported."""
    modules = [module_of(p) for p in FILES if room_of(module_of(p)) in NO_TORCH and p.name != "__main__.py"]
    script = textwrap.dedent(
        f"""
        import importlib, sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {sorted({name.split(".")[0] for name in HEAVY - {"safetensors.torch"}})!r}:
                    raise AssertionError("something imports " + name)
        sys.meta_path.insert(0, Refuse())
        for module in {modules!r}:
            importlib.import_module(module)
        """
    )
    # Warnings of third parties' import time are not ours to judge here: the suite's own filter does that.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={"PATH": "", "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=module_of)
def test_every_room_says_what_it_owns(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and "the room's first commit" not in docstring, f"{module_of(path)} does not say what it owns"
