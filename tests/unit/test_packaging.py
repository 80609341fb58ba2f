"""The wheel: with a compiler it carries the kernels, without one it is still a wheel; the data is in both."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", ".gitignore", "src")
HOOKS = ("cmake", "nanobind", "scikit_build_core")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what is built, with a file of data, and without what a developer built in place."""
    copy = tmp_path / "kelm"
    copy.mkdir()
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, copy / name)
    data = copy / "src" / "kelm" / "data" / "models" / "example"
    data.mkdir(parents=True)
    (data / "model.safetensors").write_bytes(b"weights")
    return copy


def build(tree: Path, what: str, **env: str) -> Path:
    """Run one hook of the build backend (PEP 517) in ``tree``; the file it made."""
    for module in HOOKS:
        pytest.importorskip(module, reason="the build tools are in kelm[test]")
    script = f"import scikit_build_core.build as b; print(); print(b.build_{what}('dist'))"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tree,
        env={**os.environ, "PATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return tree / "dist" / done.stdout.strip().splitlines()[-1]


def test_without_a_compiler_the_wheel_is_pure(tree: Path) -> None:
    wheel = build(tree, "wheel", CC="/no/compiler", CXX="/no/compiler")
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.endswith("py3-none-any.whl")
    assert "kelm/ops/native.py" in names
    assert "kelm/data/models/example/model.safetensors" in names
    assert not [name for name in names if "_native" in name]


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="this machine has no C++ compiler")
def test_with_a_compiler_the_wheel_carries_the_kernels(tree: Path) -> None:
    wheel = build(tree, "wheel")
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.startswith("kelm/_native.")]
    assert "kelm/data/models/example/model.safetensors" in names
    assert not [name for name in names if "csrc" in name], "sources belong in the sdist"


def test_the_source_distribution_can_build_it_all(tree: Path) -> None:
    sdist = build(tree, "sdist")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "CMakeLists.txt", "LICENSE", "src/kelm/csrc/module.cpp"} <= names
    assert "src/kelm/data/models/example/model.safetensors" in names


def test_no_build_flag_depends_on_the_machine_that_builds() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    flags = "".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for flag in ("-march", "-mtune=native", "-ffast-math", "-Ofast", "-mcpu=native"):
        assert flag not in flags
    assert "-ffp-contract=off" in flags
