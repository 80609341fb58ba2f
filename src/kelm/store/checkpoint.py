"""Which files make a checkpoint, and the checks that each of them passes before it becomes a blob.

Only data is taken: JSON, text, tokenizers, safetensors. Pickles (*.bin, *.pt) and code (*.py) are never opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from kelm import limits
from kelm.errors import ModelFormatError
from kelm.store import compression
from kelm.store.safetensors import read_header

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_SMALL = int(limits.CONFIG_BYTES.most)
_TOKENIZER = int(limits.TOKENIZER_BYTES.most)
DATA_FILES: Mapping[str, int] = {
    CONFIG: _SMALL,
    "generation_config.json": _SMALL,
    "chat_template.jinja": _SMALL,
    "grammar.lark": int(limits.GRAMMAR_BYTES.most),
    "modules.json": _SMALL,
    "1_Pooling/config.json": _SMALL,
    "sentence_bert_config.json": _SMALL,
    "config_sentence_transformers.json": _SMALL,
    "special_tokens_map.json": _SMALL,
    "added_tokens.json": _SMALL,
    "tokenizer_config.json": _TOKENIZER,
    "tokenizer.json": _TOKENIZER,
    "tokenizer.model": _TOKENIZER,
    "sentencepiece.bpe.model": _TOKENIZER,
    "spiece.model": _TOKENIZER,
    "vocab.json": _TOKENIZER,
    "vocab.txt": _TOKENIZER,
    "merges.txt": _TOKENIZER,
    INDEX: _TOKENIZER,
    compression.FILE: _SMALL,
}
"""Every file that is taken beside the weights, and the most bytes it may have."""

_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")


def choose(names: Collection[str], read_index: Callable[[], bytes]) -> list[str]:
    """The files of a checkpoint among ``names`` (paths with '/', relative to its folder): the data files that are
    there, and the weights: the index's shards, else model.safetensors, else the only *.safetensors at the top.

    ``read_index`` gives INDEX's bytes and is called only if it is there. Raises ModelFormatError when there is no
    config.json or no safetensors.
    """
    if CONFIG not in names:
        raise ModelFormatError(f"{CONFIG} is missing: this is not a checkpoint folder", param=CONFIG)
    data = [name for name in DATA_FILES if name in names]
    if INDEX in names:
        return data + sorted(set(weight_map(read_index()).values()))
    if WEIGHTS in names:
        return [*data, WEIGHTS]
    weights = [name for name in names if _SHARD.fullmatch(name)]
    if len(weights) != 1:
        raise ModelFormatError(_no_weights(names, weights), param=WEIGHTS)
    return data + weights


def weight_map(raw: bytes) -> dict[str, str]:
    """Tensor name -> shard, from an index file. Raises ModelFormatError."""
    index = read_json(INDEX, raw)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelFormatError(f"{INDEX}: weight_map: must map tensors to files", param="weight_map")
    for tensor, shard in shards.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise ModelFormatError(
                f"{INDEX}: weight_map: {tensor[:80]!r} must be in a *.safetensors beside it, got {str(shard)[:80]!r}",
                param="weight_map",
            )
    return shards


def check(files: Mapping[str, Path]) -> None:
    """Check every file of a chosen checkpoint: JSON is JSON, sizes are in bounds, each safetensors header covers its
    file, the index and the shards agree. Raises ModelFormatError naming file and field."""
    for name, path in files.items():
        if name in DATA_FILES:
            check_data(name, path)
    where: dict[str, str] = {}
    for name in sorted(name for name in files if name.endswith(".safetensors")):
        for tensor in read_header(files[name], name=name).tensors:
            if tensor in where:
                raise ModelFormatError(f"{name}: {tensor}: is in {where[tensor]} too", param=tensor)
            where[tensor] = name
    if INDEX in files:
        _check_index(weight_map(files[INDEX].read_bytes()), where)


def check_data(name: str, path: Path) -> None:
    """Check one of DATA_FILES: its size, and that JSON is JSON. Raises ModelFormatError."""
    raw = _read_bounded(name, path)
    if name == CONFIG:
        read_json(name, raw)
    elif name.endswith(".json"):
        _parse_json(name, raw)


def read_json(name: str, raw: bytes) -> dict[str, Any]:
    """An object from a JSON file's bytes; ``name`` is for the error. Raises ModelFormatError."""
    value = _parse_json(name, raw)
    if not isinstance(value, dict):
        raise ModelFormatError(f"{name}: must be a JSON object, got {type(value).__name__}", param=name)
    return value


def _parse_json(name: str, raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{name}: is not JSON: {str(error) or type(error).__name__}", param=name) from None


def _read_bounded(name: str, path: Path) -> bytes:
    most = DATA_FILES[name]
    with path.open("rb") as stream:
        raw = stream.read(most + 1)
    if len(raw) > most:
        raise ModelFormatError(f"{name}: is longer than {most} bytes", param=name)
    return raw


def _check_index(index: Mapping[str, str], where: Mapping[str, str]) -> None:
    for tensor, shard in index.items():
        if where.get(tensor) != shard:
            raise ModelFormatError(
                f"{INDEX}: weight_map: {tensor[:80]!r} should be in {shard}, it is in {where.get(tensor, 'no file')}",
                param="weight_map",
            )


def _no_weights(names: Collection[str], weights: Collection[str]) -> str:
    if weights:
        return f"{len(weights)} safetensors files and no {INDEX}: {', '.join(sorted(weights)[:4])}"
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if pickles:
        return (
            f"the weights are only there as {pickles[0]}, a pickle, which can run code when it is read: Kelm takes "
            "safetensors only; convert it where you trust it, with save_pretrained(..., safe_serialization=True)"
        )
    return f"{WEIGHTS} is missing: there are no weights here"
