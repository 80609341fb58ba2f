"""What is imported is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "kelm"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

DISTRIBUTION = {"yaml": "pyyaml", "starlette": "fastapi", "sklearn": "scikit-learn", "markdown_it": "markdown-it-py"}
"""Where the module is called otherwise than what is installed (starlette is a part of FastAPI's interface)."""

EXTRA_ONLY = {
    "tune": "tune",
    "models": "fallback",
    "ops": "torch",
    "worker": "torch",
    "cluster": "cluster",
    "replicas": "cluster",
    "evaluate": "eval",
    "compress": "eval",
    "testing": "test",
}
"""Rooms that may import what an extra brings."""

INDIRECT = {"httptools"}
"""Needed without being imported by name: the parser under the uvicorn protocol that serve/protocol.py extends."""

TYPING_ONLY = {"_typeshed"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: Iterable[str]) -> set[str]:
    """Names of distributions, those of Kelm's own extras included."""
    names = set()
    for requirement in requirements:
        own = re.match(r"kelm\[([\w,]+)\]", requirement)
        if own:
            for extra in own.group(1).split(","):
                names |= declared(PROJECT["optional-dependencies"][extra])
        else:
            names.add(normal(re.split(r"[<>=!~;\[ ]", requirement, maxsplit=1)[0]))
    return names


BASE = declared(PROJECT["dependencies"])


def third_party(path: Path) -> set[str]:
    """Distributions that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        tops = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"kelm"} - TYPING_ONLY
        found |= {normal(DISTRIBUTION.get(top, top)) for top in tops}
    return found


def imported() -> dict[str, set[str]]:
    """Room -> distributions that its files import."""
    found: dict[str, set[str]] = {}
    for path in SRC.rglob("*.py"):
        room = path.relative_to(SRC).parts[0].removesuffix(".py")
        found.setdefault(room, set()).update(third_party(path))
    return found


def test_everything_imported_is_declared() -> None:
    missing = []
    for room, names in imported().items():
        extra = EXTRA_ONLY.get(room)
        allowed = BASE | (declared(PROJECT["optional-dependencies"][extra]) if extra else set())
        missing += [f"{room} imports {name}" for name in sorted(names - allowed)]
    assert not missing, missing


def test_everything_declared_is_imported() -> None:
    """A dependency that nothing imports is weight and risk for nothing."""
    unused = BASE.difference(INDIRECT, *imported().values())
    assert not unused, f"nothing imports {sorted(unused)}"


def test_what_the_suite_imports_is_declared() -> None:
    """``make test`` starts from an empty environment: what a test needs comes with kelm[test]."""
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    beside = {normal(path.stem) for path in files} | {"tests", "benchmarks"}
    allowed = BASE | declared(PROJECT["optional-dependencies"]["test"]) | beside
    missing = {path.name: names for path in files if (names := third_party(path) - allowed)}
    assert not missing, missing
