"""What a run found, and what follows from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Decode:
    """``streams`` sequences that decode together."""

    streams: int
    tokens_s: float
    """Of all of them."""
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Rates are medians of the run's repeats."""

    model: str
    architecture: str
    executor: str
    dtype: str
    threads: int
    processor: str
    isa: str | None
    """Of the compiled kernels; None where there are none."""
    parameters: int
    weight_bytes: int
    load_s: float
    """Until the model could be asked, imports included; the file was in the page cache or was not."""
    prompt_tokens: int
    first_token_s: float
    tokens: int
    decode: tuple[Decode, ...]
    bandwidth: float | None
    """Bytes a second that this machine reads; None where it can't be measured."""

    @property
    def prefill_tokens_s(self) -> float:
        return self.prompt_tokens / self.first_token_s

    def share(self, decode: Decode) -> float | None:
        """Of the bandwidth, by reading the weights once a step: 1 is the roof, which no decoder passes."""
        return None if self.bandwidth is None else self.weight_bytes / decode.step_s / self.bandwidth

    def as_json(self) -> dict[str, Any]:
        curve = [{**asdict(one), "bandwidth_share": self.share(one)} for one in self.decode]
        return {**asdict(self), "prefill_tokens_s": self.prefill_tokens_s, "decode": curve}
