"""Kelm: a kernel for language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kelm.library import LLM as LLM
    from kelm.library import Completion as Completion
    from kelm.library import SamplingParams as SamplingParams

__version__ = "0.1.0"
_LIBRARY = ("LLM", "Completion", "SamplingParams")


def __getattr__(name: str) -> Any:
    """The library's names are imported when they are used: the command line must start without them."""
    if name in _LIBRARY:
        from kelm import library

        return getattr(library, name)
    raise AttributeError(f"module 'kelm' has no attribute {name!r}")
