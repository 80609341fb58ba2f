"""What a checkpoint's files say about its tokenizer, before anything is built from them.

tokenizer.json            vocabulary, added tokens, normalizer ... decoder       (``tokenizers``' own format)
tokenizer_config.json     named tokens (bos_token ...), added_tokens_decoder, chat_template
special_tokens_map.json   named tokens, in older checkpoints
generation_config.json    eos_token_id, an id or a list
config.json               eos_token_id, bos_token_id, in its absence
chat_template.jinja, additional_chat_templates/NAME.jinja
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from kelm import limits
from kelm.errors import ModelFormatError
from kelm.text import legacy
from kelm.text.files import Files, parse_json, read_bytes, read_json, read_text

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MARKUP = frozenset("<>[]{}|＜＞｜【】")


class Added(msgspec.Struct):
    """One entry of ``added_tokens``: text that is cut out before the model of the tokenizer sees the rest."""

    content: str
    id: int = -1
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False

    @property
    def control(self) -> bool:
        """Whether it steers the model, so that a user's text must never become it.

        Special tokens do, and so does whatever looks like markup (<tool_call>, [INST], <think>). The rest is
        vocabulary that happens to be added: runs of spaces (GPT-NeoX), words of a domain.
        """
        return bool(self.content) and (self.special or not _MARKUP.isdisjoint(self.content))


class TokenizerFile(msgspec.Struct):
    """tokenizer.json; the parts that only ``tokenizers`` reads stay unparsed."""

    model: msgspec.Raw
    added_tokens: list[Added] = []
    version: str = "1.0"
    normalizer: msgspec.Raw = msgspec.Raw(b"null")
    pre_tokenizer: msgspec.Raw = msgspec.Raw(b"null")
    post_processor: msgspec.Raw = msgspec.Raw(b"null")
    decoder: dict[str, Any] | None = None
    truncation: None = None
    """Always dropped, like padding: a server never cuts a prompt silently."""
    padding: None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything the room needs from the files. Ids are looked up later, in the built tokenizer."""

    file: TokenizerFile
    named: dict[str, str]
    """'eos_token' -> '</s>', for those that are declared."""
    eos_ids: tuple[int, ...]
    """From generation_config.json, else config.json."""
    bos_id: int | None
    templates: dict[str, str]
    """By name; the usual one is 'default'."""
    config: dict[str, Any]


def read(files: Files) -> Spec:
    """Raises ModelFormatError naming file and field."""
    config = read_json(files, "tokenizer_config.json")
    named = _named_tokens(config, read_json(files, "special_tokens_map.json"))
    data = read_bytes(files, "tokenizer.json") or legacy.tokenizer_json(files, config, named)
    file = _parse(data)
    _add_declared(file, config, named)
    model_config, generation = read_json(files, "config.json"), read_json(files, "generation_config.json")
    return Spec(
        file=file,
        named=named,
        eos_ids=_ids(generation, "generation_config.json") or _ids(model_config, "config.json"),
        bos_id=next(iter(_ids(model_config, "config.json", "bos_token_id")), None),
        templates=_templates(files, config),
        config=config,
    )


def _parse(data: bytes) -> TokenizerFile:
    loose = parse_json(data, "tokenizer.json", dict[str, msgspec.Raw])
    for dropped in ("truncation", "padding"):
        loose.pop(dropped, None)
    file = parse_json(msgspec.json.encode(loose), "tokenizer.json", TokenizerFile)
    limits_most = limits.VOCAB.most
    if len(file.added_tokens) > limits_most:
        raise ModelFormatError(
            f"tokenizer.json: added_tokens has {len(file.added_tokens)} entries, the bound is {limits_most:.0f}"
        )
    return file


def _named_tokens(config: dict[str, Any], older: dict[str, Any]) -> dict[str, str]:
    named: dict[str, str] = {}
    for name in NAMED:
        for source, file in ((config, "tokenizer_config.json"), (older, "special_tokens_map.json")):
            value = source.get(name)
            if isinstance(value, dict):
                value = value.get("content")
            if value is None or isinstance(value, bool):
                continue
            if not isinstance(value, str):
                raise ModelFormatError(f"{file}: {name} must be a string, got {type(value).__name__}")
            named.setdefault(name, value)
    return named


def _add_declared(file: TokenizerFile, config: dict[str, Any], named: dict[str, str]) -> None:
    """Lay tokenizer_config.json's declarations over tokenizer.json's, which often lack them."""
    known = {token.content: token for token in file.added_tokens}
    declared = config.get("added_tokens_decoder") or {}
    entries = parse_json(msgspec.json.encode(declared), "tokenizer_config.json: added_tokens_decoder", dict[str, Added])
    for token in entries.values():
        if token.content not in known:
            known[token.content] = token
            file.added_tokens.append(token)
        known[token.content].special |= token.special
    extra = config.get("additional_special_tokens") or []
    extra = extra if isinstance(extra, list) else []
    contents = [e.get("content") if isinstance(e, dict) else e for e in extra]
    for content in [*named.values(), *(c for c in contents if isinstance(c, str))]:
        if content in known:
            known[content].special = True
        elif content:
            known[content] = Added(content, special=True, normalized=False)
            file.added_tokens.append(known[content])


def _ids(config: dict[str, Any], file: str, field: str = "eos_token_id") -> tuple[int, ...]:
    nested = config.get("text_config")
    value = config.get(field, nested.get(field) if isinstance(nested, dict) else None)
    values = value if isinstance(value, list) else [] if value is None else [value]
    for item in values:
        if not isinstance(item, int) or isinstance(item, bool):
            raise ModelFormatError(f"{file}: {field} must be a token id or a list of them, got {str(value)[:80]!r}")
    return tuple(item for item in values if item >= 0)


def _templates(files: Files, config: dict[str, Any]) -> dict[str, str]:
    value = config.get("chat_template")
    templates: dict[str, str] = {}
    if isinstance(value, str):
        templates["default"] = value
    elif isinstance(value, list):
        for entry in value:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("name", "template")):
                raise ModelFormatError("tokenizer_config.json: chat_template entries need a name and a template")
            templates[entry["name"]] = entry["template"]
    elif value is not None:
        raise ModelFormatError("tokenizer_config.json: chat_template must be a string or a list of named templates")
    for name in files:
        folder, _, base = name.rpartition("/")
        if name == "chat_template.jinja":
            templates["default"] = read_text(files, name) or ""
        elif folder == "additional_chat_templates" and base.endswith(".jinja"):
            templates[base.removesuffix(".jinja")] = read_text(files, name) or ""
    return templates
