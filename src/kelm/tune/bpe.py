"""A byte-level BPE tokenizer trained on the corpus: lossless on any text, its merges in English and Chinese alike."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from kelm.tune.documents import SPECIAL

SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{Han}{1,4}| ?[^\P{L}\p{Han}]+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's pattern with digits one by one and Chinese in runs of at most four, so that no merge swallows a sentence."""


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly ``vocab_size`` tokens (fewer if the text has no more merges)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
