"""Arrays on their way between nodes: what they are is said in a header of fixed size, typed and bounded.

header    256 bytes: 2 of length, then msgpack of Header      the same size whatever is coming, so that
payload   the array's bytes, C order                          both sides know what to expect
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kelm import limits
from kelm.errors import InvalidRequest

Array = NDArray[np.generic] | Tensor
Kind = Literal["numpy", "torch", "bytes", "none"]

HEADER_BYTES = 256
_LENGTH_BYTES = 2
_MOST_DIMENSIONS = 16
_MOST_WORDS = 100
DTYPES: dict[str, torch.dtype] = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.uint8,
        torch.bool,
    )
}
ADDED = frozenset({"float32", "float64", "float16", "bfloat16", "int8", "int32", "int64", "uint8"})
"""What gloo can reduce."""


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node brings to an operation. ``error``: why it brings nothing, which refuses it for all."""

    doing: str
    kind: Kind = "none"
    dtype: str = ""
    shape: tuple[int, ...] = ()
    error: str = ""

    def what(self) -> str:
        """As people write it: float32[2, 3]."""
        return f"{self.dtype}{list(self.shape)}" if self.kind != "none" else "nothing"


def describe(doing: str, value: Array | bytes | None) -> Header:
    """Raises InvalidRequest for what can't be sent."""
    if value is None:
        return Header(doing)
    if isinstance(value, bytes | bytearray | memoryview):
        return _bounded(Header(doing, "bytes", "uint8", (len(value),)))
    if isinstance(value, Tensor):
        if value.device.type != "cpu" or value.layout != torch.strided:
            raise InvalidRequest(f"{doing}: a dense tensor in main memory is needed, got one on {value.device}")
        return _bounded(Header(doing, "torch", str(value.dtype).removeprefix("torch."), tuple(value.shape)))
    if isinstance(value, np.ndarray | np.generic):
        name = value.dtype.name if value.dtype.kind in "biuf" else str(value.dtype)  # not what libraries add to numpy
        return _bounded(Header(doing, "numpy", name, tuple(value.shape)))
    raise InvalidRequest(f"{doing}: an array or a tensor is needed, got {type(value).__name__}")


def tensor_of(value: Array | bytes) -> Tensor:
    """Contiguous, and safe to be written into where it has to be: a copy of what is read-only."""
    if isinstance(value, Tensor):
        return value.detach().contiguous()
    if isinstance(value, bytes | bytearray | memoryview):
        return torch.from_numpy(np.frombuffer(bytearray(value), dtype=np.uint8))
    plain = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("=")).reshape(value.shape)
    return torch.from_numpy(plain if plain.flags.writeable else plain.copy())


def empty(header: Header) -> Tensor:
    """Room for what ``header`` announces. Raises InvalidRequest where it announces too much."""
    _bounded(header)
    return torch.empty(header.shape, dtype=DTYPES[header.dtype])


def restore(header: Header, tensor: Tensor) -> Array | bytes:
    """The tensor as the kind of thing that was given."""
    if header.kind == "bytes":
        return tensor.numpy().tobytes()
    return tensor.numpy() if header.kind == "numpy" else tensor


def raw(tensor: Tensor) -> Tensor:
    """Its bytes, flat: what moves without being added up may be of any type."""
    return tensor.reshape(-1).view(torch.uint8)


def pack(header: Header) -> Tensor:
    body = msgspec.msgpack.encode(header)
    if len(body) > HEADER_BYTES - _LENGTH_BYTES:
        body = msgspec.msgpack.encode(Header(header.doing[:_MOST_WORDS], error=header.error[:_MOST_WORDS]))
    room = len(body).to_bytes(_LENGTH_BYTES, "little") + body
    return torch.frombuffer(bytearray(room.ljust(HEADER_BYTES, b"\0")), dtype=torch.uint8)


def unpack(tensor: Tensor) -> Header:
    room = tensor.numpy().tobytes()
    size = int.from_bytes(room[:_LENGTH_BYTES], "little")
    try:
        return msgspec.msgpack.decode(room[_LENGTH_BYTES : _LENGTH_BYTES + size], type=Header)
    except msgspec.DecodeError:
        raise InvalidRequest("a node sent something that is not a header of this version of Kelm") from None


def _bounded(header: Header) -> Header:
    if header.dtype not in DTYPES:
        raise InvalidRequest(f"{header.doing}: {header.dtype} can't be sent; {', '.join(DTYPES)} can")
    if len(header.shape) > _MOST_DIMENSIONS:
        raise InvalidRequest(f"{header.doing}: at most {_MOST_DIMENSIONS} dimensions, got {len(header.shape)}")
    limits.CLUSTER_ARRAY_BYTES.check(math.prod(header.shape) * DTYPES[header.dtype].itemsize, field="array")
    return header
