"""The grammar that masks an answer: the request's own, else, for a chat, the one that the checkpoint carries.

Both are Lark in llguidance's dialect. A checkpoint's that is empty masks nothing: a variant that has learnt other
answers than its base's grammar allows lays one over it. They are compiled once in a process that can be killed before
a worker sees them; a checkpoint's file is compiled once for each content (the blob's path names it).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from kelm import limits
from kelm.errors import ModelFormatError
from kelm.serve.ports import Call, Model
from kelm.text.grammar import FILE

_KEPT = 64
_known: dict[str, str] = {}
"""Path of a checkpoint's grammar -> its text, once it has compiled."""


async def of_request(call: Call, model: Model, asked: str | None) -> str | None:
    """``asked`` itself. Raises InvalidRequest when it doesn't compile."""
    if asked is not None:
        await call.kernel.helper.compile_grammar(model.files, asked)
    return asked


async def of_chat(call: Call, model: Model, asked: str | None) -> str | None:
    """``asked``, else the checkpoint's. Raises InvalidRequest, ModelFormatError."""
    path = model.files.get(FILE)
    if asked is not None or path is None:
        return await of_request(call, model, asked)
    if path not in _known:
        text = await asyncio.to_thread(_read, Path(path))
        if text:
            await call.kernel.helper.compile_grammar(model.files, text)
        if len(_known) >= _KEPT:
            _known.clear()
        _known[path] = text
    return _known[path] or None


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(int(limits.GRAMMAR_BYTES.most))
            return text if text.strip() else ""
    except (OSError, UnicodeDecodeError):
        raise ModelFormatError(f"{FILE}: can't be read as UTF-8 text", param=FILE) from None
