"""What the doors need of the kernel, so that a test can bring a small one. ``kelm.kernel.Kernel`` is the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kelm.clock import Clock
from kelm.errors import Forbidden
from kelm.kernel.requests import Chunk, Encoding, Generation, Origin, RequestTask, Usage
from kelm.serve.access import Identity
from kelm.store.manifest import Manifest
from kelm.store.names import Name
from kelm.text.chat import Chat
from kelm.text.tokenizer import Tokenizer
from kelm.wire.jobs import Spec
from kelm.wire.messages import Loaded

Json = dict[str, Any]


class Model(Protocol):
    """A resident model."""

    @property
    def name(self) -> str:
        """Full; of a variant with the version."""
        ...

    @property
    def created(self) -> float: ...

    @property
    def files(self) -> dict[str, str]: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def info(self) -> Loaded: ...


def answered_by(asked: str, model: Model) -> str:
    """What an answer says of its model: the name as it was asked for; of a variant, the version that answered."""
    name = Name.parse(model.name)
    return asked if name.variant is None else name.short


class Process(Protocol):
    """One generation: iterate it for its chunks."""

    @property
    def pid(self) -> int: ...

    @property
    def usage(self) -> Usage: ...

    def __aiter__(self) -> AsyncIterator[Chunk]: ...

    def cancel(self) -> None: ...


class Arrival(Protocol):
    """A request that has its pid and its model; leaving it without having submitted anything gives the pid up."""

    @property
    def pid(self) -> int: ...

    @property
    def model(self) -> Model: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Helper(Protocol):
    """The killable process that renders templates and compiles grammars."""

    async def render_chat(self, files: dict[str, str], chat: Chat) -> list[int]: ...

    async def compile_grammar(self, files: dict[str, str], grammar: str) -> None: ...


class Job(Protocol):
    """A tuning, compression or evaluation job."""

    def row(self) -> Json: ...


class Jobs(Protocol):
    async def submit(self, spec: Spec, data: bytes | None) -> Job: ...

    def get(self, pid: int) -> Job: ...

    def rows(self, *, ended: bool) -> list[Json]: ...

    async def read_log(self, pid: int, offset: int) -> Json: ...


class Metrics(Protocol):
    @property
    def content_type(self) -> str: ...

    def render(self) -> bytes: ...


class Kernel(Protocol):
    @property
    def jobs(self) -> Jobs: ...

    @property
    def helper(self) -> Helper: ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def ready(self) -> bool: ...

    @property
    def fingerprint(self) -> str | None: ...

    async def resolve(self, name: str) -> Model: ...

    async def enter(self, origin: Origin) -> Arrival: ...

    def submit(self, request: Generation) -> Process: ...

    async def encode(self, request: Encoding) -> list[NDArray[np.float32]]: ...

    async def unload(self, name: str) -> list[str]: ...

    def processes(self) -> list[Json]: ...

    def resident(self) -> list[Json]: ...

    def worker(self) -> Json: ...

    async def cancel(self, pid: int) -> str: ...

    def tenants(self) -> list[Json]: ...

    def nice(self, pid: int, priority: int) -> Json: ...

    def why(self, pid: int) -> Json: ...

    def request_shutdown(self) -> None: ...


class Shelf(Protocol):
    """What the doors need of the store."""

    def list(self) -> list[Manifest]: ...

    def resolve(self, name: str) -> Manifest: ...


@dataclass(frozen=True, slots=True)
class Call:
    """What a door is given beside the checked body."""

    kernel: Kernel
    store: Shelf
    clock: Clock
    request_id: str
    identity: Identity = field(default_factory=Identity)

    @property
    def tenant(self) -> str:
        return self.identity.tenant

    async def enter(self, name: str, task: RequestTask, priority: int = 0) -> Arrival:
        """A pid for this request, and its model, waited for. Raises Forbidden, and what ``resolve`` raises."""
        if priority < 0 and not self.identity.operator:
            raise Forbidden(
                f"a priority below 0 goes before everybody else's and is the operator's to give, got {priority}; "
                "send 0 or more",
                param="priority",
            )
        origin = Origin(request_id=self.request_id, model=name, task=task, tenant=self.tenant, priority=priority)
        return await self.kernel.enter(origin)

    @property
    def now(self) -> int:
        """Unix time in seconds, for ``created``."""
        return int(self.clock.wall_s())
