"""Schedule, documents, tokenizer, Kneser-Ney and bits per byte, each against an independent account."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from kelm.errors import ModelFormatError
from kelm.tune import bpe, documents
from kelm.tune.bits import bits_per_byte
from kelm.tune.decoder import Decoder
from kelm.tune.documents import Document, Encoder
from kelm.tune.kneser_ney import KneserNey
from kelm.tune.recipe import Shape, Training
from kelm.tune.schedule import learning_rate

TEXTS = ["how do I see what runs?", "查看正在运行的请求。", "Use `kelm ps` to see it.", "hello 你好 🐱 <|end|>"] * 5


def test_schedule() -> None:
    train = Training(steps=100, batch_rows=1, row_tokens=16, learning_rate=1.0, warmup_steps=10, final_share=0.1)
    rates = [learning_rate(step, train) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    middle = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 45 / 89))
    assert rates[55] == pytest.approx(middle)


def test_the_tokenizer_loses_nothing() -> None:
    tokenizer = bpe.train(TEXTS, 400)
    tokenizer.encode_special_tokens = True
    for text in [*TEXTS, "\x00\t\n  x", "ünïcödé 𝔘", "名字:llama3.2", "   "]:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
    assert tokenizer.get_vocab_size() <= 400
    assert [tokenizer.token_to_id(token) for token in documents.SPECIAL] == list(range(len(documents.SPECIAL)))


def test_documents_weigh_what_the_model_writes() -> None:
    tokenizer = bpe.train(TEXTS, 400)
    parts = [("user", "hello <|end|>"), ("assistant", "Use it.")]
    [one] = Encoder(tokenizer, 0.25).encode([parts])
    user, said = (tokenizer.encode(text, add_special_tokens=False).ids for _, text in parts)
    begin, end, asks, answers = (tokenizer.token_to_id(f"<|{name}|>") for name in ("begin", "end", "user", "assistant"))
    assert end not in user, "a special token in a document's text is plain text"
    assert one.ids.tolist() == [begin, asks, *user, end, answers, *said, end]
    expected = [0.0, 0.25, *[0.25] * (len(user) + 1), 0.25, *[1.0] * (len(said) + 1)]
    assert one.weights.tolist() == pytest.approx(expected)
    assert one.text_bytes == len("hello <|end|>Use it.")


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"messages": []}', '{"messages": [{"role": "x", "content": ""}]}', "3", '{"messages": [1]}']
)
def test_a_malformed_document_names_file_and_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"text": "fine"}) + "\n" + line + "\n")
    with pytest.raises(ModelFormatError, match=r"corpus\.jsonl, line 2"):
        list(documents.read([path]))


class NaiveKneserNey:
    """The textbook's recursion over dictionaries."""

    def __init__(self, sequences: list[list[int]], vocab: int, order: int) -> None:
        self.vocab, self.order = vocab, order
        self.counts: dict[int, Counter[tuple[int, ...]]] = defaultdict(Counter)
        for ids in sequences:
            padded = [ids[0]] * (order - 2) + ids
            for end in range(order - 1, len(padded)):
                self.counts[order][tuple(padded[end - order + 1 : end + 1])] += 1
        for n in range(order - 1, 0, -1):
            self.counts[n] = Counter(gram[1:] for gram in self.counts[n + 1])

    def probability(self, gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / self.vocab
        counts = self.counts[len(gram)]
        followers = {g: c for g, c in counts.items() if g[:-1] == gram[:-1]}
        lower = self.probability(gram[1:])
        if not followers:
            return lower
        once, twice = (sum(c == k for c in counts.values()) for k in (1, 2))
        discount = once / (once + 2 * twice) if once and twice else 0.5
        total = sum(followers.values())
        return max(counts[gram] - discount, 0) / total + discount * len(followers) / total * lower


def test_kneser_ney_is_the_textbooks_and_sums_to_one() -> None:
    rng = np.random.default_rng(5)
    vocab, order = 6, 4
    train = [[0, *rng.integers(1, vocab, rng.integers(2, 9)).tolist()] for _ in range(30)]
    test = [0, *rng.integers(1, vocab, 8).tolist()]
    naive = NaiveKneserNey(train, vocab, order)

    def plain(ids: list[int]) -> Document:
        return Document(np.array(ids, np.int32), np.ones(len(ids), np.float32), len(ids))

    ours = KneserNey([plain(ids) for ids in train], vocab, order)
    padded = [0] * (order - 2) + test
    expected = [naive.probability(tuple(padded[i - order + 1 : i + 1])) for i in range(order - 1, len(padded))]
    assert ours.probabilities(plain(test)).tolist() == pytest.approx(expected)
    sums = sum(ours.probabilities(plain([0, 2, 3, token]))[-1] for token in range(vocab))
    assert sums == pytest.approx(1.0)


def test_bits_per_byte_counts_every_token_but_the_first() -> None:
    shape = Shape(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
    )
    decoder = Decoder(shape, 64)
    torch.nn.init.zeros_(decoder.model.embed_tokens.weight)  # uniform over 64: 6 bits a token
    ids = np.arange(1, 11, dtype=np.int32)
    some = [Document(ids, np.ones(10, np.float32), 27), Document(ids[:4], np.ones(4, np.float32), 9)]
    assert bits_per_byte(decoder, some, 32) == pytest.approx(6 * (9 + 3) / (27 + 9))
