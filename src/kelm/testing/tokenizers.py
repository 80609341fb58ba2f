"""Tiny tokenizers of every family, trained in milliseconds on text from the caller, written as a checkpoint would.

byte_level   GPT-2, Llama 3, Qwen: BPE over bytes
ignore_merges  the same, words of the vocabulary taken whole (Llama 3)
byte_fallback  Llama 2, Mistral, Gemma: BPE over "▁words" with <0xE4> for what it lacks
unigram      T5, XLM-R: Unigram with Metaspace and byte fallback
word_piece   BERT
word_end     CLIP, GPT-1: BPE with "</w>"
word_level   whole words
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FAMILIES = ("byte_level", "ignore_merges", "byte_fallback", "unigram", "word_piece", "word_end", "word_level")
TEXT = (
    "The quick brown fox jumps over the lazy dog. It's 12:34, isn't it? Yes, it is!",
    "def main(argument: int) -> None:\n    return argument + 1\n\n\n# naïve café, über Straße",
    "怎么卸载一个模型?你好,世界。こんにちは 👋 emoji 👩‍👩‍👧 and more text",
    "a <tag> in [brackets] {braces} | pipes | and   spaces im_end im_start user assistant tool_call",
)
_SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
ADDED = ("<tool_call>", "</tool_call>", "</think>", "[INST]")
"""Added tokens that are not special, as Qwen's are."""


def make(family: str, text: Iterable[str] = TEXT, vocab: int = 420) -> Tokenizer:
    """A trained ``tokenizers.Tokenizer`` of one of FAMILIES, special and added tokens included."""
    tokenizer, trainer = getattr(_Families, family)(vocab)
    tokenizer.train_from_iterator(list(text) * 3, trainer)
    tokenizer = _without_added_bytes(tokenizer)
    tokenizer.add_tokens([AddedToken(content, normalized=False, special=False) for content in ADDED])
    if family == "byte_fallback":
        bos = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", bos)]
        )
    return tokenizer


def write(folder: Path, family: str = "byte_level", config: dict[str, object] | None = None) -> dict[str, str]:
    """The files of a checkpoint's tokenizer, as name -> path. ``config`` is laid over tokenizer_config.json."""
    declared = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"} | (config or {})
    contents = {"tokenizer.json": make(family).to_str(), "tokenizer_config.json": json.dumps(declared)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return {name: str(folder / name) for name in contents}


def _without_added_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """Trainers take byte tokens as special tokens only; in checkpoints they are vocabulary."""
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] not in _BYTES]
    return Tokenizer.from_str(json.dumps(file))


class _Families:
    """(untrained tokenizer, trainer) by family."""

    @staticmethod
    def byte_level(vocab: int) -> tuple[Tokenizer, trainers.Trainer]:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        return tokenizer, _bpe(vocab, _SPECIAL, initial_alphabet=alphabet)

    @staticmethod
    def ignore_merges(vocab: int) -> tuple[Tokenizer, trainers.Trainer]:
        tokenizer, trainer = _Families.byte_level(vocab)
        tokenizer.model = models.BPE(ignore_merges=True)
        split = pre_tokenizers.Split(Regex(r"\s+"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        return tokenizer, trainer

    @staticmethod
    def byte_fallback(vocab: int) -> tuple[Tokenizer, trainers.Trainer]:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        return tokenizer, _bpe(vocab, (*_SPECIAL, *_BYTES), limit_alphabet=40)

    @staticmethod
    def unigram(vocab: int) -> tuple[Tokenizer, trainers.Trainer]:
        tokenizer = Tokenizer(models.Unigram(byte_fallback=True))
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
        special = [*_SPECIAL, *_BYTES]
        return tokenizer, trainers.UnigramTrainer(
            vocab_size=vocab, special_tokens=special, unk_token="<unk>", show_progress=False
        )

    @staticmethod
    def word_piece(vocab: int) -> tuple[Tokenizer, trainers.Trainer]:
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        return tokenizer, trainers.WordPieceTrainer(
            vocab_size=vocab, special_tokens=list(_SPECIAL), show_progress=False
        )

    @staticmethod
    def word_end(vocab: int) -> tuple[Tokenizer, trainers.Trainer]:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.BPEDecoder()
        return tokenizer, _bpe(vocab, _SPECIAL, end_of_word_suffix="</w>")

    @staticmethod
    def word_level(vocab: int) -> tuple[Tokenizer, trainers.Trainer]:
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return tokenizer, trainers.WordLevelTrainer(
            vocab_size=vocab, special_tokens=list(_SPECIAL), show_progress=False
        )


def _bpe(vocab: int, special: tuple[str, ...], **more: Any) -> trainers.Trainer:
    return trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(special), show_progress=False, **more)
