"""Random small checkpoints made by transformers, and a driver that runs an executor over a shuffled paged arena."""

from __future__ import annotations

import atexit
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
import transformers

from kelm.models.batch import Batch, Executor, KVGroup, Span


class Arena:
    """KV tensors for an executor, with each sequence's blocks in random places; unused memory is NaN."""

    def __init__(self, groups: Sequence[KVGroup], tokens: int, seed: int = 0, block_tokens: int = 16) -> None:
        self._rng = np.random.default_rng(seed)
        self.block_tokens = block_tokens
        per_slab = 3
        slabs = -(-tokens // block_tokens) // per_slab + 2
        self.kv = [
            torch.full((slabs, per_slab, len(g.layers), g.kv_heads, 2, block_tokens, g.head_dim), torch.nan)
            for g in groups
        ]
        self.groups = groups
        self._free = [self._rng.permutation(slabs * per_slab).tolist() for _ in groups]
        self._tables: dict[int, list[list[int]]] = {}

    def tables(self, seq: int, tokens: int, context: int) -> tuple[np.ndarray, ...]:
        """Tables covering ``tokens`` positions; blocks wholly behind a window of a row at ``context`` read -1."""
        tables = self._tables.setdefault(seq, [[] for _ in self.groups])
        out = []
        for table, free, group in zip(tables, self._free, self.groups, strict=True):
            while len(table) * self.block_tokens < tokens:
                table.append(free.pop())
            shown = np.array(table, dtype=np.int32)
            if group.window is not None:
                shown[: max(0, context - group.window + 1) // self.block_tokens] = -1
            out.append(shown)
        return tuple(out)

    def blocks(self, seq: int) -> list[tuple[int, int]]:
        """Where the first group's blocks of a sequence lie: (slab, block in it)."""
        return [divmod(block, self.kv[0].shape[1]) for block in self._tables[seq][0]]


def step(
    executor: Executor, arena: Arena, work: dict[int, tuple[list[int], int]], every_row: bool = True
) -> np.ndarray:
    """Run one step; ``work``: sequence -> (tokens, context). Logits of every row, or of each sequence's last."""
    tokens: list[int] = []
    spans, wanted = [], []
    for seq, (ids, context) in work.items():
        tables = arena.tables(seq, context + len(ids), context)
        spans.append(Span(seq, len(tokens), len(ids), context, tables))
        tokens += ids
        wanted.append(len(tokens) - 1)
    rows = np.arange(len(tokens)) if every_row else np.array(wanted)
    return executor.forward(Batch(np.array(tokens, dtype=np.int64), tuple(spans), rows.astype(np.int64)))


def scratch() -> Path:
    """A folder that lasts as long as the interpreter, for models shared by tests that are not all in one fixture."""
    folder = Path(mkdtemp(prefix="kelm-parity-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def files_of(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): str(p) for p in folder.rglob("*") if p.is_file()}


def save(model: transformers.PreTrainedModel, folder: Path) -> dict[str, str]:
    model.save_pretrained(folder)
    return files_of(folder)


def edit_config(files: dict[str, str], **changes: object) -> None:
    path = Path(files["config.json"])
    config = json.loads(path.read_text())
    for name, value in changes.items():
        if value is ...:
            config.pop(name, None)
        else:
            config[name] = value
    path.write_text(json.dumps(config))


@torch.no_grad()
def make_lively(model: transformers.PreTrainedModel, seed: int) -> None:
    """Random weights under which every part of a decoder shows: peaked attention, biting soft caps, norms and biases
    away from their defaults, and logits with a standard deviation of 2 to 10."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        p.copy_(_lively(name, p, torch.randn(p.shape, generator=generator)))
    model.eval()
    cap, model.config.final_logit_softcapping = getattr(model.config, "final_logit_softcapping", None), None
    ids = torch.randint(model.config.vocab_size, (1, 64), generator=generator)
    std = float(model(ids).logits.std())
    norm = next(m for n, m in model.named_parameters() if n in ("model.norm.weight", "transformer.ln_f.weight"))
    stored_minus_one = 1.0 if "gemma" in model.config.model_type else 0.0
    norm.copy_((norm + stored_minus_one) * ((cap or 5.0) / std) - stored_minus_one)
    model.config.final_logit_softcapping = cap


def _lively(name: str, p: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A value for parameter ``name`` (``p``: its default)."""
    if p.ndim == 1:
        is_scale = name.endswith("weight")  # of a norm
        wide = 1.0 if "q_norm" in name or "k_norm" in name else 0.0
        return p + wide + 0.3 * noise if is_scale else 0.3 * noise
    if any(part in name for part in ("embed", "wte", "wpe")):
        return noise
    fan_in = p.shape[0] if ".h." in name else p.shape[1]  # GPT-2's linears lie as [in, out]
    sharp = 2.2 if any(part in name for part in ("q_proj", "k_proj", "c_attn")) else 1.0
    return noise * sharp / fan_in**0.5
