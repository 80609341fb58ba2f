"""Every document's links and file names lead somewhere, and no file tells where or by whom it was written."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from documents import ROOT, Document

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
CODE_PATH = re.compile(r"`((?:src|tests|docs|recipes|scripts)/[\w./-]+)`")
TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".cpp", ".hpp", ".json", ".cfg", ".sh", ".js", ""}
# Spelled apart so that this file is not a find of its own.
WORKPLACE = re.compile(
    "|".join(["/" + "work/", "sub" + "agent", "room" + r"/\w", "work" + r"tree\b", "/opt/" + "pypi"])
)


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_links_lead_somewhere(path: Path) -> None:
    for label, target in Document.read(path).links:
        if re.match(r"\w+:", target):
            continue
        file, _, fragment = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"[{label}]({target})"
        if fragment and found.suffix == ".md":
            assert fragment in Document.read(found).anchors, f"[{label}]({target}): no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_files_named_in_documents_exist(path: Path) -> None:
    for name in CODE_PATH.findall(Document.read(path).prose):
        assert (ROOT / name).exists(), name


def shipped_files() -> list[Path]:
    """What is in version control; where there is no git (an sdist), what lies in the folders that matter."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]
    return [p for folder in ("src", "tests", "docs", "recipes") for p in (ROOT / folder).rglob("*") if p.is_file()]


def test_no_file_speaks_of_the_place_where_it_was_written() -> None:
    found = []
    for path in shipped_files():
        if path.suffix not in TEXT or path.stat().st_size > 1 << 20:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if WORKPLACE.search(line):
                found.append(f"{ids(path)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
