"""Collective operations on arrays: every node calls the same one, and all get the result or the same error.

Before anything moves, the nodes show one another what they bring (arrays.Header): another operation, another type or
another shape is an InvalidRequest on every node, which names the node, and the system can be used further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kelm.cluster.arrays import (
    ADDED,
    HEADER_BYTES,
    Array,
    Header,
    describe,
    empty,
    pack,
    raw,
    restore,
    tensor_of,
    unpack,
)
from kelm.cluster.backend import ReduceOp
from kelm.cluster.group import Group
from kelm.errors import InvalidRequest

Reduction = Literal["sum", "product", "min", "max"]
_REDUCTIONS: dict[str, Any] = {
    "sum": ReduceOp.SUM,
    "product": ReduceOp.PRODUCT,
    "min": ReduceOp.MIN,
    "max": ReduceOp.MAX,
}


class Compute:
    """The verbs. Results are numpy arrays where numpy arrays were given, tensors where tensors were."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def broadcast(self, value: Array | None = None, *, root: int = 0) -> Array:
        """``root``'s array on every node; the others give nothing."""
        header, tensor = self._from_root("broadcast", value, root)
        tensor = empty(header) if tensor is None else tensor.clone()
        self._move(header, lambda: self._group.gloo.broadcast(raw(tensor), root))
        return _array(header, tensor)

    def scatter(self, parts: Sequence[Array] | None = None, *, root: int = 0) -> Array:
        """This node's part of ``root``'s list, which holds one array for each node, all alike."""
        stacked, problem = self._stack(parts, root)
        header, tensor = self._from_root("scatter", stacked, root, problem)
        header = Header(header.doing, header.kind, header.dtype, header.shape[1:])
        out = empty(header)
        given = [] if tensor is None else [raw(part) for part in tensor]
        self._move(header, lambda: self._group.gloo.scatter(raw(out), given, root))
        return _array(header, out)

    def gather(self, value: Array, *, root: int = 0) -> list[Array] | None:
        """On ``root`` every node's array, by rank; None on the others."""
        header, tensor = self._alike(f"gather to {root}", value, root)
        outs = [empty(header) for _ in range(self._group.size)] if self._group.rank == root else []
        rooms = [raw(out) for out in outs]
        self._move(header, lambda: self._group.gloo.gather(rooms, raw(tensor), root))
        return [_array(header, out) for out in outs] if outs else None

    def reduce(self, value: Array, reduction: Reduction = "sum", *, root: int = 0) -> Array | None:
        """On ``root`` the nodes' arrays added up (or multiplied, or the least or greatest); None on the others."""
        header, tensor = self._alike(f"reduce ({reduction}) to {root}", value, root, reduction)
        tensor = tensor.clone()
        self._move(header, lambda: self._group.gloo.reduce(tensor, root, _REDUCTIONS[reduction]))
        return _array(header, tensor) if self._group.rank == root else None

    def all_reduce(self, value: Array, reduction: Reduction = "sum") -> Array:
        """As reduce, the result on every node: the same bits on all of them."""
        header, tensor = self._alike(f"all_reduce ({reduction})", value, 0, reduction)
        tensor = tensor.clone()
        self._move(header, lambda: self._group.gloo.allreduce(tensor, _REDUCTIONS[reduction]))
        return _array(header, tensor)

    def barrier(self) -> None:
        """Return when every node has called it."""
        self._compare(Header("barrier"))

    def _from_root(self, verb: str, value: Array | None, root: int, problem: str = "") -> tuple[Header, Tensor | None]:
        """What ``root`` brings, and the array itself where that is here."""
        doing = f"{verb} from {root}"
        mine = value if self._group.rank == root else None
        own = self._own(doing, mine, problem or self._wrong_root(root))
        if self._group.rank == root and not own.error and mine is None:
            own = Header(doing, error=f"node {root} is the root and gave nothing")
        headers = self._compare(own)
        return headers[root], None if mine is None else tensor_of(mine)

    def _alike(self, doing: str, value: Array, root: int, reduction: str | None = None) -> tuple[Header, Tensor]:
        """What every node brings; refused for all unless it is the same thing."""
        problem = self._wrong_root(root)
        if reduction is not None and reduction not in _REDUCTIONS:
            problem = f"the reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}"
        own = self._own(doing, value, problem)
        if reduction is not None and not own.error and own.dtype not in ADDED:
            own = Header(doing, error=f"{own.dtype} can't be reduced; {', '.join(sorted(ADDED))} can")
        headers = self._compare(own)
        kinds = [(header.dtype, header.shape) for header in headers]
        if len(set(kinds)) > 1:
            brought = ", ".join(f"node {rank} {header.what()}" for rank, header in enumerate(headers))
            raise InvalidRequest(f"{doing}: the nodes bring different arrays ({brought}); all must be alike")
        return own, tensor_of(value)

    def _own(self, doing: str, value: object, problem: str) -> Header:
        """A fault of this node's is told to all: they would wait for it otherwise."""
        if problem:
            return Header(doing, error=problem)
        try:
            return describe(doing, value)  # type: ignore[arg-type]  # it looks what it is
        except InvalidRequest as error:
            return Header(doing, error=error.message)

    def _compare(self, own: Header) -> list[Header]:
        """Everybody's header. Raises InvalidRequest on every node when one can't take part or is elsewhere."""
        group = self._group
        group.begin(own.doing)
        packed = pack(own)
        rooms = [torch.empty(HEADER_BYTES, dtype=torch.uint8) for _ in range(group.size)]
        group.run(own.doing, lambda: group.gloo.allgather(rooms, packed))
        headers = [unpack(room) for room in rooms]
        wrong = [f"node {rank}: {header.error}" for rank, header in enumerate(headers) if header.error]
        if wrong:
            raise InvalidRequest(f"{own.doing}: {'; '.join(wrong)}")
        if any(header.doing != own.doing for header in headers):
            calls = ", ".join(f"node {rank} {header.doing}" for rank, header in enumerate(headers))
            raise InvalidRequest(f"the nodes call different operations ({calls}): all must call the same")
        return headers

    def _move(self, header: Header, start: Callable[[], Any]) -> None:
        if 0 not in header.shape:  # nothing to move
            self._group.run(header.doing, start)

    def _wrong_root(self, root: int) -> str:
        ok = isinstance(root, int) and not isinstance(root, bool) and 0 <= root < self._group.size
        return "" if ok else f"root must be a rank, 0 to {self._group.size - 1}, got {root!r}"

    def _stack(self, parts: Sequence[Array] | None, root: int) -> tuple[Array | None, str]:
        """The parts as one array, or what is wrong with them."""
        if self._group.rank != root or parts is None:
            return None, ""
        if len(parts) != self._group.size:
            return None, f"scatter needs one array for each of the {self._group.size} nodes, got {len(parts)}"
        try:
            headers = [describe("scatter", part) for part in parts]
        except InvalidRequest as error:
            return None, error.message
        if len({(header.kind, header.dtype, header.shape) for header in headers}) > 1:
            return None, f"the parts differ: {', '.join(header.what() for header in headers)}; all must be alike"
        stacked = torch.stack([tensor_of(part) for part in parts])
        return stacked if headers[0].kind == "torch" else stacked.numpy(), ""


def _array(header: Header, tensor: Tensor) -> Array:
    made = restore(header, tensor)
    assert not isinstance(made, bytes)
    return made
