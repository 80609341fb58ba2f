"""Checkpoints from before tokenizer.json: the two vocabularies simple enough to be read without guessing.

GPT-2's vocab.json + merges.txt (also RoBERTa's) and BERT's vocab.txt. Everything else (sentencepiece files, other
byte-level families, whose splitting rules are nowhere in the files) is refused with the remedy.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from kelm.errors import ModelFormatError
from kelm.text.files import Files, parse_json, read_json, read_text

_GPT2 = {"gpt2", "roberta"}
_BERT = {"bert", "distilbert"}


def tokenizer_json(files: Files, config: dict[str, Any], named: dict[str, str]) -> bytes:
    """A tokenizer.json made from the older files. Raises ModelFormatError when that would be a guess."""
    kind = str(read_json(files, "config.json").get("model_type", ""))
    if kind in _GPT2 and "vocab.json" in files and "merges.txt" in files:
        built = _byte_level(files, kind, named)
    elif kind in _BERT and "vocab.txt" in files:
        built = _word_piece(files, config, named)
    else:
        raise ModelFormatError(
            "tokenizer.json is missing, and it can only be made from the older files of gpt2, roberta, bert and"
            f" distilbert (this is {kind or 'an unnamed model_type'!r}); convert it once with"
            " transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    return str(built.to_str()).encode()


def _byte_level(files: Files, kind: str, named: dict[str, str]) -> Tokenizer:
    vocab = parse_json(read_text(files, "vocab.json") or "", "vocab.json", dict[str, int])
    lines = (read_text(files, "merges.txt") or "").splitlines()
    merges = [
        (left, right) for left, _, right in (x.partition(" ") for x in lines if not x.startswith("#version")) if right
    ]
    try:
        built = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:
        raise ModelFormatError(f"merges.txt does not fit vocab.json: {str(error)[:200]}") from None
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    if kind == "roberta":
        cls, sep = named.get("cls_token", "<s>"), named.get("sep_token", "</s>")
        built.post_processor = processors.RobertaProcessing(
            (sep, _id(vocab, sep, "vocab.json")), (cls, _id(vocab, cls, "vocab.json")), add_prefix_space=False
        )
    return built


def _word_piece(files: Files, config: dict[str, Any], named: dict[str, str]) -> Tokenizer:
    words = (read_text(files, "vocab.txt") or "").split("\n")
    vocab = {word.rstrip("\r"): i for i, word in enumerate(words) if word or i + 1 < len(words)}
    unk, cls, sep = (named.get(f"{n}_token", f"[{n.upper()}]") for n in ("unk", "cls", "sep"))
    built = Tokenizer(models.WordPiece(vocab, unk_token=unk, max_input_chars_per_word=100))
    built.normalizer = normalizers.BertNormalizer(
        lowercase=bool(config.get("do_lower_case", True)),
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
    )
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.decoder = decoders.WordPiece(prefix="##")
    built.post_processor = processors.BertProcessing(
        (sep, _id(vocab, sep, "vocab.txt")), (cls, _id(vocab, cls, "vocab.txt"))
    )
    return built


def _id(vocab: dict[str, int], token: str, file: str) -> int:
    if token not in vocab:
        raise ModelFormatError(f"{file} lacks the token {token!r}, which the model's input needs")
    return vocab[token]
