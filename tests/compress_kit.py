"""A home with small random decoders, and the compression job's function run in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kelm.compress.run import run
from kelm.context import Context
from kelm.store import Store
from kelm.testing.checkpoints import Shape, write_llama
from kelm.wire.jobs import Compress, Progress

SHAPE = Shape(hidden_size=64, intermediate_size=96, num_hidden_layers=4, max_position_embeddings=128)


def make_home(folder: Path) -> Path:
    """A store with ``tiny``, a llama of four layers whose linears 32 divides and 64 does not."""
    home = folder / "home"
    Store(home).import_folder(write_llama(folder / "tiny", 3, SHAPE), "tiny")
    return home


@dataclass
class Job:
    """What a job reported; ``stop``: after so many reports it is asked to end."""

    home: Path
    folder: Path
    memory_bytes: int = 256 << 20
    stop: int | None = None
    progress: list[Progress] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def run(self, **spec: Any) -> dict[str, Any]:
        """What is measured on is ``data`` in the folder."""
        made = Compress(**{"model": "tiny", "name": "tiny:small", "file": "fox.txt", **spec})
        return run(made, self.context(self.progress.append))

    def context(self, send: Callable[[Progress], None]) -> Context:
        return Context(
            pid=7,
            home=self.home,
            folder=self.folder,
            threads=1,
            memory_bytes=self.memory_bytes,
            send=send,
            line=self.lines.append,
            stopping=lambda: self.stop is not None and len(self.progress) >= self.stop,
        )
