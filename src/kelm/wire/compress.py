"""What `kelm compress` asks for."""

from __future__ import annotations

import msgspec


class Compress(msgspec.Struct, frozen=True, kw_only=True, tag="compress", tag_field="kind", forbid_unknown_fields=True):
    """Make a smaller model of a decoder; the result is the model ``name``."""

    model: str
    name: str
    bits: int | None = None
    """4 or 8; None: as they are."""
    group: int | None = None
    """Inputs that share a scale, with 4 bits."""
    head: bool = False
    """Round an untied output head too."""
    drop_layers: int = 0
    """How many to remove, those that change the least."""
    drop: tuple[int, ...] = ()
    """Or which."""
    file: str = ""
    """Name of the text that perplexity is measured on, for messages; empty: the model writes one."""
