"""The models in memory: granted, opened, their KV groups cut from the arena; and given back."""

from __future__ import annotations

import logging
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from kelm.errors import ModelNotFound, OutOfMemory
from kelm.memory.block_pool import BlockPool
from kelm.memory.layout import BlockLayout
from kelm.memory.ledger import Ledger
from kelm.memory.prefix import PrefixCache
from kelm.models.batch import KVGroup
from kelm.wire.messages import Load, Loaded
from kelm.worker.arena import Arena, lay_out_groups
from kelm.worker.grammars import Grammars
from kelm.worker.opened import Opened, Opener, Progress
from kelm.worker.sequence import Sequence
from kelm.worker.settings import EngineSettings

log = logging.getLogger(__name__)

_LOGIT_BYTES = 64 << 20
"""Most that the logits of one step's prompt log-probabilities may take."""


@dataclass(frozen=True, slots=True)
class Resident:
    """One model in memory and the sequences that run on it, in order of arrival."""

    key: str
    opened: Opened
    loaded: Loaded
    """As the executor says, but ``max_context_tokens`` is less where the arena holds less for one sequence."""
    layouts: tuple[BlockLayout, ...]
    groups: tuple[int, ...]
    """Of the block pool, one for each of ``layouts``."""
    prefix: PrefixCache
    grammars: Grammars
    sequences: dict[int, Sequence] = field(default_factory=dict)

    @property
    def logit_rows(self) -> int:
        return max(16, _LOGIT_BYTES // (4 * self.loaded.vocab))

    def most_bytes(self, tokens: int, step_tokens: int) -> int:
        """Of KV that a sequence of so many tokens holds at once."""
        return sum(one.most_blocks(tokens, step_tokens) * one.block_bytes for one in self.layouts)


class Residency:
    """Loads and unloads. The arena and every model are granted by the ledger before they are made.

    To the block pool it is the arena's pages.
    """

    def __init__(self, settings: EngineSettings, opener: Opener) -> None:
        self._settings = settings
        self._opener = opener
        self._ledger = Ledger(settings.memory_bytes)
        self._ledger.grant("kv", settings.slabs * settings.slab_bytes)
        self._arena = Arena(settings.slabs, settings.slab_bytes, poison=settings.poison)
        self.pool = BlockPool(settings.slabs, settings.slab_bytes, self)
        self.models: dict[str, Resident] = {}

    def copy(self, layout: BlockLayout, source: int, target: int) -> None:
        """As block_pool.Pages; a block's model is found by its layout, and one too many hears of it at worst."""
        self._arena.copy(layout, source, target)
        for resident in self.models.values():
            resident.opened.copied(layout, source, target)

    def poison(self, layout: BlockLayout, block: int) -> None:
        self._arena.poison(layout, block)

    def get(self, key: str) -> Resident:
        if key not in self.models:
            raise ModelNotFound("this model is not loaded in the worker; load it first", param="model")
        return self.models[key]

    def load(self, command: Load, progress: Progress) -> Resident:
        """Make a model resident; the one that is already, when the key is known.

        Raises OutOfMemory before anything is allocated, ModelFormatError, UnsupportedModel.
        """
        if command.model in self.models:
            return self.models[command.model]
        weights, activations = f"weights:{command.model}", f"activations:{command.model}"
        try:
            self._ledger.grant(weights, sum(Path(path).stat().st_size for path in command.files.values()))
            opened = self._opener(command, progress)
            self._ledger.grant(weights, opened.loaded.weight_bytes)
            self._ledger.grant(activations, self._activation_bytes(opened))
            resident = self._attach(command, opened)
        except BaseException:
            self._ledger.release(weights)
            self._ledger.release(activations)
            raise
        self.models[command.model] = resident
        log.info("model_loaded executor=%s bytes=%d", opened.loaded.executor, opened.loaded.weight_bytes)
        return resident

    def unload(self, key: str) -> None:
        """Its sequences must have ended."""
        resident = self.get(key)
        assert not resident.sequences, "sequences still run"
        for group in resident.groups:
            self.pool.remove_group(group)
        del self.models[key]
        self._ledger.release(f"weights:{key}")
        self._ledger.release(f"activations:{key}")

    def _attach(self, command: Load, opened: Opened) -> Resident:
        kinds: tuple[KVGroup, ...] = opened.decoder.groups if opened.decoder is not None else ()
        item = opened.kv_item_bytes
        layouts = lay_out_groups(kinds, item, self._settings.slab_bytes)
        longest = self._longest(layouts, opened.loaded.max_context_tokens)
        loaded = msgspec.structs.replace(opened.loaded, max_context_tokens=longest)
        opened.attach([self._arena.view(one, kind, item) for one, kind in zip(layouts, kinds, strict=True)])
        groups = tuple(self.pool.add_group(one) for one in layouts)
        prefix = PrefixCache(self.pool, groups)
        return Resident(command.model, opened, loaded, layouts, groups, prefix, Grammars(command.files))

    def _longest(self, layouts: tuple[BlockLayout, ...], most: int) -> int:
        """The most tokens, up to ``most``, for which one sequence alone finds blocks. OutOfMemory when none fits."""

        def slabs(tokens: int) -> int:
            step = self._settings.step_tokens
            return sum(-(-one.most_blocks(tokens, step) // one.per_slab) for one in layouts)

        if slabs(1) > self._settings.slabs:
            raise OutOfMemory(
                f"the KV arena has {self._settings.slabs} slabs of {self._settings.slab_bytes} bytes, this model "
                f"needs {slabs(1)} at least; raise the memory budget (KELM_MEMORY)"
            )
        return bisect_right(range(1, most + 1), self._settings.slabs, key=slabs)

    def _activation_bytes(self, opened: Opened) -> int:
        return self._settings.activation_bytes(opened.loaded.hidden, opened.loaded.vocab)
