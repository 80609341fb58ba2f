"""The ops of a step and what they work on. Numbers are those of csrc/step.hpp.

    Op(Kind.LINEAR, x="normed.3", out="qkv.3", matrix="layers.3.qkv.weight")

An op reads buffer ``x`` and writes buffer ``out`` (some change it in place); ops run in the order of the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

LOGITS = "logits"
"""The buffer that is the caller's."""


class Kind(IntEnum):
    EMBED = 0
    ANGLES = 1
    RMS_NORM = 2
    LAYER_NORM = 3
    LINEAR = 4
    ROTATE = 5
    SPREAD = 6
    GATHER_HEADS = 7
    WRITE_KV = 8
    ATTENTION = 9
    ACTIVATE = 10
    GATE = 11
    ADD = 12
    PICK = 13
    SOFT_CAP = 14
    LOW_RANK = 15


class Epilogue(IntEnum):
    """What a linear does to its result before it is written."""

    NONE = 0
    ADD = 1
    ACTIVATE = 2
    GATE = 3


ACTIVATIONS = ("none", "silu", "gelu", "gelu_tanh", "relu", "tanh")
IN_PLACE = frozenset({Kind.ROTATE, Kind.ADD, Kind.SOFT_CAP, Kind.LOW_RANK})
"""They read ``out`` before they write it; a norm may, of its own columns."""


@dataclass(frozen=True, slots=True)
class Op:
    """See csrc/step.hpp for what each kind does with these."""

    kind: Kind
    x: str = ""
    out: str = ""
    x_column: int = 0
    out_column: int = 0
    count: int = 1
    width: int = 1
    step: int = 0
    matrix: str = ""
    vector: str = ""
    other: str = ""
    group: int = 0
    layer: int = 0
    window: int = 0
    activation: str = "none"
    epilogue: Epilogue = Epilogue.NONE
    a: float = 0.0
    b: float = 0.0

    @property
    def buffers(self) -> tuple[str, ...]:
        return tuple(name for name in (self.x, self.out) if name)

    @property
    def alone(self) -> bool:
        """Whether it is a phase of its own: threads share it in another way than by rows."""
        return self.kind in (Kind.LINEAR, Kind.ATTENTION)

    def renamed(self, names: Mapping[str, str]) -> Op:
        return replace(self, x=names.get(self.x, self.x), out=names.get(self.out, self.out))


@dataclass(frozen=True, slots=True)
class Buffer:
    """``width`` floats for each row of the batch, or for each row whose logits are wanted (``picked``)."""

    width: int
    picked: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    ops: tuple[Op, ...]
    buffers: Mapping[str, Buffer]

    def uses(self, name: str) -> Iterator[int]:
        """Numbers of the ops that read or write a buffer."""
        return (number for number, op in enumerate(self.ops) if name in op.buffers)

    def pruned(self) -> Graph:
        """Without the buffers that no op uses."""
        used = {name for op in self.ops for name in op.buffers}
        return Graph(self.ops, {name: buffer for name, buffer in self.buffers.items() if name in used})
