"""Which models are resident, and how a name becomes one.

    resolve(name) ─► manifest ─► quarantine check ─► tokenizer ─► Load ─► Loaded ─► Model
                     (store)     (text helper)       (thread)     (worker)

Whoever asks for a model that is on its way waits for the same load; it may have to wait for memory (room.py). A load
that fails is an error of those who asked for it; the daemon and the others go on. A variant brings its base in first,
and the base stays as long as it does. What no name stands for any more leaves when nobody runs on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from kelm import limits
from kelm.clock import Clock
from kelm.errors import KelmError, ModelNotFound, Unavailable
from kelm.kernel.loads import Loads
from kelm.kernel.room import Room
from kelm.observe.metrics import Metrics
from kelm.sched.eviction import Resident
from kelm.store.manifest import Manifest
from kelm.store.names import Name
from kelm.store.store import Store
from kelm.store.versions import Variant
from kelm.text.helper import TextHelper
from kelm.text.tokenizer import Tokenizer
from kelm.wire.messages import Load, Loaded

log = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


Users = Callable[[str], object]
"""Key of a model -> something true while a process needs it."""


@dataclass(frozen=True, slots=True)
class Located:
    """What a name stands for at a moment."""

    name: str
    """As it was given."""
    key: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Model:
    """A resident model."""

    name: str
    """Full: ``name:tag``; of a variant ``name:tag@variant:version``."""
    created: float
    """Unix time, for display."""
    tokenizer: Tokenizer
    load: Load
    """What brings it into a worker."""
    info: Loaded

    @property
    def key(self) -> str:
        """How the worker knows it; the same name with other content or precision has another one."""
        return self.load.model

    @property
    def files(self) -> dict[str, str]:
        """Name inside the checkpoint -> path."""
        return self.load.files

    @property
    def base(self) -> str | None:
        """Of a variant: its base's key."""
        return self.load.base


@dataclass(slots=True)
class Entry:
    """One row: a model that is resident or on its way."""

    name: str
    key: str
    since_wall_s: float
    base: str | None = None
    """Of a variant: its base's key."""
    model: Model | None = None
    nameless_s: float | None = None
    """Since when no name has stood for it; monotonic."""
    done_bytes: int = 0
    total_bytes: int = 0
    phase: str = "reading its files"
    """What a model that isn't resident waits for."""
    used_s: float = 0.0
    """When somebody last asked for it; monotonic."""

    def say(self, phase: str) -> None:
        self.phase, self.done_bytes, self.total_bytes = phase, 0, 0

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        self.done_bytes, self.total_bytes = done_bytes, total_bytes


class Models:
    """Runs on the event loop; what may block goes to a thread, what may hang to the helper."""

    def __init__(
        self, store: Store, helper: TextHelper, loads: Loads, dtype: str, users: Users, metrics: Metrics, clock: Clock
    ) -> None:
        self._users = users
        self._metrics = metrics
        self._room = Room(self, clock)
        self._store = store
        self._helper = helper
        self._loads = loads
        self._dtype = cast(Dtype, dtype)
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._arrivals: dict[str, asyncio.Task[Model]] = {}
        self._names: dict[str, str] = {}

    async def resolve(self, name: str) -> Model:
        """The resident model called ``name``, brought in first when it isn't there.

        Raises ModelNotFound with near matches, ModelFormatError, UnsupportedModel, OutOfMemory, WorkerFailed.
        """
        return await self.bring(await self.locate(name))

    async def locate(self, name: str) -> Located:
        """Which model ``name`` is now. Raises ModelNotFound with near matches."""
        manifest = await asyncio.to_thread(self._store.resolve, name)
        return Located(name, self._key(manifest), manifest)

    async def bring(self, located: Located) -> Model:
        """The model, brought in first when it isn't resident. Raises as ``resolve``, ModelNotFound apart."""
        model = await self._resident(located.manifest)
        self._names[str(Name.parse(located.name))] = model.key
        self.used(model.key)
        return model

    def used(self, key: str) -> None:
        """Somebody asked for it, or is done with it."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.used_s = self._clock.monotonic_s()
            self.used(entry.base or "")

    def entry(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def find(self, name: str) -> Model:
        """The resident model that ``name`` was last resolved to, or whose own name it is. Raises ModelNotFound when it
        isn't resident."""
        full = str(Name.parse(name))
        named = self.by_key(self._names.get(full, ""))
        found = [model for model in self.resident() if model.name == full] if named is None else [named]
        if not found:
            raise ModelNotFound(f"the model {name} is not loaded", param="model")
        return found[-1]

    def by_key(self, key: str) -> Model | None:
        entry = self._entries.get(key)
        return None if entry is None else entry.model

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def resident(self) -> list[Model]:
        return [entry.model for entry in self._entries.values() if entry.model is not None]

    def named(self, name: str) -> list[Model]:
        """Every resident content of a name (of a variant without a number: every version), behind the variants that
        lie on it. Raises ModelNotFound when there is none."""
        wanted = Name.parse(name)
        models = [model for model in self.resident() if _covers(wanted, Name.parse(model.name))]
        if not models:
            raise ModelNotFound(f"the model {name} is not loaded", param="model")
        keys = {model.key for model in models}
        return [model for model in self.resident() if model.base in keys] + models

    def stop(self) -> None:
        """The daemon ends: those who wait for a load get Unavailable."""
        for task in self._arrivals.values():
            task.cancel()

    async def unload(self, model: Model) -> None:
        """Its jobs must have ended. Returns when the worker has dropped it."""
        if self._entries.pop(model.key, None) is not None:
            await self._loads.unload(model.key)
            log.info("model_unloaded model=%s", model.name)

    def shelved(self) -> list[Resident]:
        """For room.py, as the next two."""
        return [
            Resident(key, entry.model.info.held_bytes, entry.used_s, busy=self._busy(key), base=entry.base)
            for key, entry in self._entries.items()
            if entry.model is not None
        ]

    def _busy(self, key: str) -> bool:
        """Somebody runs on it, or on a variant of it, or such a variant is on its way."""
        over = [entry for entry in self._entries.values() if entry.base == key]
        return bool(self._users(key)) or any(entry.model is None or self._users(entry.key) for entry in over)

    def name_of(self, key: str) -> str:
        return self._entries[key].name

    async def evict(self, key: str) -> None:
        model = self._entries[key].model
        assert model is not None
        log.info("model_evicted model=%s", model.name)
        self._metrics.evictions.labels(_series(model.name)).inc()
        await self.unload(model)

    def superseded(self) -> list[Model]:
        """Called regularly: resident models that no name has stood for and no variant has lain on for
        limits.SUPERSEDED_S; a request that was given one is on its way no longer than that."""
        used = {*self._names.values(), *(entry.base for entry in self._entries.values())}
        gone, now_s = [], self._clock.monotonic_s()
        for entry in self._entries.values():
            if entry.model is None or entry.key in used:
                entry.nameless_s = None
            elif entry.nameless_s is None:
                entry.nameless_s = now_s
            elif now_s - entry.nameless_s >= limits.SUPERSEDED_S.value:
                gone.append(entry.model)
        return gone

    async def reload(self) -> list[tuple[Model, KelmError]]:
        """Bring the resident models into a new worker, bases before their variants. Returns those that failed; they
        are resident no more."""
        failed: dict[str, tuple[Model, KelmError]] = {}
        for model in sorted(self.resident(), key=lambda model: model.base is not None):
            try:
                if model.base in failed:
                    raise failed[model.base][1]
                await self._bring_back(model)
            except KelmError as error:
                log.error("model_reload_failed model=%s code=%s reason=%r", model.name, error.code, error.message)
                self._entries.pop(model.key, None)
                failed[model.key] = (model, error)
        return list(failed.values())

    async def _bring_back(self, model: Model) -> None:
        """Somebody may unload it meanwhile."""
        if model.key in self._entries:
            await self._loads.load(model.load, self._entries[model.key].progress, again=True)
        if model.key not in self._entries:
            await self._loads.unload(model.key)

    async def _resident(self, manifest: Manifest) -> Model:
        return self.by_key(self._key(manifest)) or await self._arrival(self._key(manifest), manifest)

    def _key(self, manifest: Manifest) -> str:
        return f"{manifest.name}@{manifest.digest}/{self._dtype}"

    async def _arrival(self, key: str, manifest: Manifest) -> Model:
        """Wait for the model; a waiter that is cancelled doesn't stop the load."""
        task = self._arrivals.get(key)
        if task is None:
            task = asyncio.create_task(self._bring_in(key, manifest), name=f"load {manifest.name}")
            task.add_done_callback(_retrieve)
            self._arrivals[key] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise  # it is the waiter that was cancelled
            raise Unavailable("the daemon is shutting down") from None

    async def _bring_in(self, key: str, manifest: Manifest) -> Model:
        base = self._key(manifest.base) if isinstance(manifest, Variant) else None
        entry = self._entries[key] = Entry(manifest.name, key, self._clock.wall_s(), base)
        entry.used_s = self._clock.monotonic_s()
        try:
            if isinstance(manifest, Variant):
                entry.say(f"waiting for {manifest.base.name}, on which it lies")
                await self._resident(manifest.base)
            load = await asyncio.to_thread(self._command, key, base, manifest)
            await self._helper.check(load.files)
            tokenizer = await asyncio.to_thread(Tokenizer.load, load.files)
            entry.say("waiting for its turn to be loaded")
            info = await self._room.load(lambda: self._loads.load(load, entry.progress), entry.say, needs=base)
            entry.model = Model(manifest.name, manifest.created, tokenizer, load, info)
        except BaseException:
            self._entries.pop(key, None)
            raise
        finally:
            del self._arrivals[key]
        self._metrics.loads.labels(_series(entry.name)).inc()
        log.info("model_loaded model=%s executor=%s seconds=%.2f", entry.name, info.executor, info.seconds)
        return entry.model

    def _command(self, key: str, base: str | None, manifest: Manifest) -> Load:
        files, layers = self._store.paths(manifest), list(self._store.layer_paths(manifest))
        images = str(self._store.home.images)
        return Load(
            model=key, files=files, dtype=self._dtype, images=images, digest=manifest.digest, base=base, layers=layers
        )


def _series(name: str) -> str:
    """For metrics: all versions of a variant are one."""
    return str(Name.parse(name).unpinned)


def _covers(wanted: Name, name: Name) -> bool:
    """Whether somebody who asks for ``wanted`` means ``name`` too."""
    return name == wanted or (wanted.version is None and name.unpinned == wanted)


def _retrieve(task: asyncio.Task[Model]) -> None:
    """Those who wait get its error; when they are all gone, nobody does, and that is fine."""
    if not task.cancelled():
        task.exception()
