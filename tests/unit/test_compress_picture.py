"""The picture of a compression: every figure is in it, what was not measured has no bar, names are only text."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from kelm.compress import picture
from kelm.store.compression import Compression, Side

BEFORE = Side(precision="bfloat16", layers=6, parameters=9, size_bytes=8 << 20, weight_bytes=7 << 20, perplexity=20.5)
AFTER = Side(precision="int4 group 32", layers=5, parameters=8, size_bytes=2 << 20, weight_bytes=None, perplexity=None)


def test_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **more: (drawn.append(self), real(self, *args, **more)))
    record = Compression(
        source="$a$:latest", source_digest="sha256:0", method="int4 $x^2$", before=BEFORE, after=AFTER, text="文本.txt"
    )
    assert picture.png("small:int4", record).startswith(b"\x89PNG")
    disk, memory, perplexity = drawn[0].axes
    heights = [[bar.get_height() for bar in axes.patches] for axes in (disk, memory, perplexity)]
    assert heights == [[8.0, 2.0], [7.0, 0.0], [20.5, 0.0]]
    assert [text.get_text() for text in perplexity.texts] == ["20.5", "not measured"]
    assert [label.get_text() for label in disk.get_xticklabels()] == [
        "before\nbfloat16\n6 layers", "after\nint4 group 32\n5 layers",
    ]  # fmt: skip
    assert perplexity.get_xlabel() == "on 文本.txt"
