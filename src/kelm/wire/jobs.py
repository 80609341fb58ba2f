"""Messages between the daemon and the process of one job (kelm.jobs), and what a job is asked to do.

The same framing as a worker's (framing.py). A job's process is told once what to do, reports how far it is, and ends
with Done or Failed; what it writes on its output is its log.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from kelm import limits

PROTOCOL = 1
Layer = Annotated[int, msgspec.Meta(ge=0, le=int(limits.LAYERS.most))]

# --- what is to be done: sent to the door as JSON, kept in the job's folder --------------------------------


class Tune(msgspec.Struct, frozen=True, kw_only=True, tag="tune", tag_field="kind", forbid_unknown_fields=True):
    """Teach a model from examples; the result is a version of ``base@variant``. None: the method's own value."""

    base: str
    variant: str
    file: str
    """The data file's name, for messages; its ending says what it is (csv, jsonl)."""
    epochs: int | None = None
    learning_rate: float | None = None
    rank: int | None = None
    seed: int = 1

    @property
    def model(self) -> str:
        return self.base


class Evaluate(msgspec.Struct, frozen=True, kw_only=True, tag="evaluate", tag_field="kind", forbid_unknown_fields=True):
    """Measure a model on a task file."""

    model: str
    file: str
    limit: int | None = None
    max_tokens: int = 256


class Compress(msgspec.Struct, frozen=True, kw_only=True, tag="compress", tag_field="kind", forbid_unknown_fields=True):
    """Make a smaller model of a decoder; the result is the model ``name``."""

    model: str
    name: str
    bits: Literal[4, 8] | None = None
    """Of the linears' weights; None: as they are."""
    group: Literal[32, 64, 128] | None = None
    """Inputs that share a scale, with 4 bits."""
    head: bool = False
    """Round an untied output head too."""
    drop_layers: Layer = 0
    """How many layers to remove, those that change the least."""
    drop: Annotated[tuple[Layer, ...], msgspec.Meta(max_length=int(limits.LAYERS.most))] = ()
    """Or which."""
    file: str | None = None
    """Name of the text that perplexity is measured on, for messages; None: the model writes one."""


Spec = Tune | Evaluate | Compress
"""A kind of job is one of these, one line in kelm.jobs.kinds, and a function there."""

# --- daemon -> job -----------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What to do, and with what. The first message, and again the first of the next process if this one dies."""

    pid: int
    spec: Spec
    home: str
    folder: str
    """The job's own: ``data`` is what was sent with it, the rest is its work, checkpoints included."""
    threads: int
    memory_bytes: int
    """What it may allocate beyond what its process has at the start."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Leave soon: at the next checkpoint, or with what the last one holds."""


Order = Start | Stop

# --- job -> daemon -----------------------------------------------------------------------------------------


class Began(msgspec.Struct, frozen=True, tag=True):
    """First message of a job's process."""

    protocol: int
    pid: int
    """Of the OS process."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """``done`` of ``total`` units of work; ``figures`` as they stand (loss, accuracy)."""

    done: int
    total: int
    note: str = ""
    figures: dict[str, float] = {}


class Done(msgspec.Struct, frozen=True, tag=True):
    """It is finished; ``result`` is plain JSON."""

    result: dict[str, Any]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It can't be done: trying again would fail in the same way."""

    code: str
    message: str


Report = Began | Progress | Done | Failed
