"""The models in memory: granted, opened, their KV groups cut from the arena; and given back."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from kelm.errors import ModelNotFound, OutOfMemory, UnsupportedModel
from kelm.memory.block_pool import BlockPool
from kelm.memory.layout import BlockLayout
from kelm.memory.ledger import Ledger
from kelm.memory.prefix import PrefixCache
from kelm.models.batch import KVGroup
from kelm.store.safetensors import read_header
from kelm.store.tensors import FLOATS
from kelm.wire.messages import Load, Loaded
from kelm.worker.arena import Arena, lay_out_groups
from kelm.worker.grammars import Grammars
from kelm.worker.opened import Opened, Opener, Progress
from kelm.worker.sequence import Sequence
from kelm.worker.settings import EngineSettings

log = logging.getLogger(__name__)

_LOGIT_BYTES = 64 << 20
"""Most that the logits of one step's prompt log-probabilities may take."""
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


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
    base: str | None = None
    """Of a variant: the key of the model whose weights it shares."""
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
        open_it = self._open_base if command.base is None else self._open_variant
        try:
            resident = self._attach(command, open_it(command, progress))
        except BaseException:
            self._release(command.model)
            raise
        self.models[command.model] = resident
        log.info("model_loaded executor=%s bytes=%d", resident.loaded.executor, resident.loaded.weight_bytes)
        return resident

    def variants_of(self, key: str) -> list[str]:
        """Keys of the models that lie on this one."""
        return [resident.key for resident in self.models.values() if resident.base == key]

    def unload(self, key: str) -> None:
        """Its sequences must have ended, and its variants be gone."""
        resident = self.get(key)
        assert not resident.sequences, "sequences still run"
        assert not self.variants_of(key), "variants lie on it"
        for group in resident.groups:
            self.pool.remove_group(group)
        del self.models[key]
        self._release(key)

    def _open_base(self, command: Load, progress: Progress) -> Opened:
        weights, shown = f"weights:{command.model}", _shown(command)
        self._ledger.grant(weights, _weight_bytes(command), shown)
        opened = self._opener(command, progress)
        self._ledger.grant(weights, opened.loaded.weight_bytes, shown)
        self._ledger.grant(f"activations:{command.model}", self._activation_bytes(opened), f"{shown}, for a step,")
        return opened

    def _open_variant(self, command: Load, progress: Progress) -> Opened:
        """Its own weights are granted; activations are its base's, since a step runs one model."""
        assert command.base is not None
        base = self.get(command.base)
        if base.opened.lay_over is None:
            raise UnsupportedModel(
                f"{base.loaded.architecture} runs on the executor {base.loaded.executor}, which serves no variants; "
                "native families do",
                param="model",
            )
        laid = base.opened.lay_over(command)
        self._ledger.grant(f"weights:{command.model}", laid.own_bytes, _shown(command))
        return laid.open(progress)

    def _held_bytes(self, key: str) -> int:
        return self._ledger.line(f"weights:{key}") + self._ledger.line(f"activations:{key}")

    def _release(self, key: str) -> None:
        self._ledger.release(f"weights:{key}")
        self._ledger.release(f"activations:{key}")

    def _attach(self, command: Load, opened: Opened) -> Resident:
        kinds: tuple[KVGroup, ...] = opened.decoder.groups if opened.decoder is not None else ()
        item = opened.kv_item_bytes
        layouts = lay_out_groups(kinds, item, self._settings.slab_bytes)
        longest = self._longest(layouts, opened.loaded.max_context_tokens)
        loaded = msgspec.structs.replace(
            opened.loaded, max_context_tokens=longest, held_bytes=self._held_bytes(command.model)
        )
        opened.attach([self._arena.view(one, kind, item) for one, kind in zip(layouts, kinds, strict=True)])
        groups = tuple(self.pool.add_group(one) for one in layouts)
        prefix = PrefixCache(self.pool, groups)
        return Resident(
            command.model, opened, loaded, layouts, groups, prefix, Grammars(command.files), base=command.base
        )

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


def _shown(command: Load) -> str:
    """The model as a user knows it, for messages."""
    return f"the model {command.model.partition('@sha256:')[0]}"


def _weight_bytes(command: Load) -> int:
    """What the weights will take, from the files: their size, or more where the precision asked for is wider."""
    size = sum(Path(path).stat().st_size for path in command.files.values())
    item = _ITEM_BYTES.get(command.dtype)
    if item is None:
        return size
    headers = [read_header(path, name=name) for name, path in command.files.items() if name.endswith(".safetensors")]
    tensors = [info for header in headers for info in header.tensors.values()]
    return max(size, sum(item * math.prod(t.shape) if t.dtype in FLOATS else t.end - t.begin for t in tensors))
