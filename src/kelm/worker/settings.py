"""What an engine may use. The daemon's config.py makes these from the user's settings."""

from __future__ import annotations

from dataclasses import dataclass

from kelm import limits


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """``memory_bytes`` is the whole budget: KV arena, weights and activations are granted from it."""

    memory_bytes: int
    kv_bytes: int | None = None
    """Of the arena, rounded down to whole slabs; None: a quarter of the budget."""
    threads: int = 1
    max_num_seqs: int = int(limits.MAX_NUM_SEQS.default or 1)
    step_tokens: int = int(limits.STEP_TOKENS.default or 1)
    slab_bytes: int = int(limits.SLAB_BYTES.default or 1)
    executor: str = "auto"
    """Of decoders: ``native``, ``torch``, or ``auto``: native where it can run one."""
    poison: bool = False
    """Overwrite freed blocks with NaN, so that a stale read shows (for tests; costs a write of each block)."""

    @property
    def slabs(self) -> int:
        wanted = self.memory_bytes // 4 if self.kv_bytes is None else self.kv_bytes
        return max(1, wanted // self.slab_bytes)

    def activation_bytes(self, hidden: int, vocab: int) -> int:
        """About 16 rows of hidden states for each token of a step, and two of logits for each sequence."""
        return 4 * (16 * self.step_tokens * hidden + 2 * self.max_num_seqs * vocab)
