"""``ready`` means that a real step ran: a model is there from the start, and an idle worker runs a step of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import cast

from kelm.errors import KelmError
from kelm.kernel.encodings import Array
from kelm.kernel.models import Model
from kelm.kernel.process import Process
from kelm.kernel.requests import Encoding, EncodingTask, Generation
from kelm.store.packaged import SOURCE
from kelm.store.store import Store
from kelm.wire.messages import Sampling

log = logging.getLogger(__name__)

OWN_TENANT = "kernel"
"""Of requests that nobody sent."""


async def warm_up(store: Store, resolve: Callable[[str], Awaitable[Model]]) -> None:
    """Bring in the smallest model of the package, so that a real step has run before anybody asks for one.

    A package without models starts empty; a model that can't be loaded is a line in the log.
    """
    shipped = [manifest for manifest in await asyncio.to_thread(store.list) if manifest.source == SOURCE]
    for manifest in sorted(shipped, key=lambda manifest: manifest.size_bytes)[:1]:
        try:
            await resolve(manifest.name)
        except KelmError as error:
            log.error("warm_up_failed model=%s code=%s reason=%r", manifest.name, error.code, error.message)


class Proof:
    """Goes the way of every request. One at a time; a failed one is tried again when it is asked for again."""

    def __init__(
        self, submit: Callable[[Generation], Process], encode: Callable[[Encoding], Awaitable[list[Array]]]
    ) -> None:
        self._submit = submit
        self._encode = encode
        self._task: asyncio.Task[None] | None = None

    def begin(self, model: Model) -> None:
        """Returns at once."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._one_step(model), name="prove the worker")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _one_step(self, model: Model) -> None:
        try:
            if "generate" in model.info.tasks:
                await self._generate(model.name)
            else:
                await self._encode_one(model.name, cast(EncodingTask, model.info.tasks[0]))
        except KelmError as error:
            log.warning("proof_failed model=%s code=%s reason=%r", model.name, error.code, error.message)

    async def _generate(self, name: str) -> None:
        sampling = Sampling(seed=0, temperature=0, max_tokens=1)
        request = Generation(request_id="proof", model=name, prompt=[0], sampling=sampling, tenant=OWN_TENANT)
        async for _ in self._submit(request):
            pass

    async def _encode_one(self, name: str, task: EncodingTask) -> None:
        await self._encode(Encoding(request_id="proof", model=name, task=task, inputs=[[0]], tenant=OWN_TENANT))
