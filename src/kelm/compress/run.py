"""The job: a smaller model from one in the store, measured before and after.

    texts ─► perplexity before ─► influence of the layers ─► write ─► perplexity after ─► the store

Everything is made in the job's folder and measured there, in a store of its own; the last step brings the finished
model under its name. A job that is killed begins anew, and leaves nothing but that folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from kelm import config
from kelm.compress import folder, request, texts
from kelm.compress.influence import influence
from kelm.compress.layers import least_influential
from kelm.compress.measure import Measured, Report, measure
from kelm.compress.plan import Plan
from kelm.compress.source import Source, open_source
from kelm.compress.texts import Tokens
from kelm.context import Context
from kelm.errors import OutOfMemory
from kelm.evaluate import Task
from kelm.models.decoder import LoadedDecoder
from kelm.models.loader import load
from kelm.models.quantization import Quantization
from kelm.models.weights import parameters
from kelm.store import Store, compression
from kelm.wire.jobs import Compress

WORK = "compress"
_PHASES = {
    "before": (0, 40, "measuring the source"),
    "layers": (40, 55, "looking for the layers that matter least"),
    "write": (55, 70, "writing the smaller model"),
    "after": (70, 95, "measuring the smaller model"),
    "store": (95, 100, "bringing it into the store"),
}
"""From and to, in hundredths of the work."""


def run(spec: Compress, context: Context) -> dict[str, Any]:
    """``model``, ``digest`` and ``compression`` (store.compression.Compression) of the result.

    Raises InvalidRequest, UnsupportedModel, ModelFormatError, OutOfMemory, StoreError; Cancelled when asked to stop.
    """
    manifest = request.check(spec, context.store)
    source = open_source(context.store, manifest)
    request.check_config(spec, source.config, compression.read(source.files))
    task = texts.read_text(context.data, spec.file) if spec.file else None
    work = context.folder / WORK
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    try:
        return _Compression(spec, context, source, work).run(task)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Compression:
    """One job at work in ``work``."""

    def __init__(self, spec: Compress, context: Context, source: Source, work: Path) -> None:
        self._spec, self._context, self._source, self._work = spec, context, source, work
        self._dtype = config.load_settings({"home": context.home}).dtype
        """At which the daemon serves, before and after."""
        self._shown: tuple[int, str] = (-1, "")

    def run(self, task: Task | None) -> dict[str, Any]:
        source = self._source
        plan = self._plan(tuple(range(source.depth)))
        plan.check()
        before = self._measured("before", self._context.home, source.manifest.name, task)
        influences = self._influence(before)
        removed = least_influential(influences, self._spec.drop_layers) if influences else tuple(self._spec.drop)
        plan = self._plan(tuple(number for number in range(source.depth) if number not in removed))
        self._context.line(f"{source.manifest.name} -> {self._spec.name}: {plan.method}")
        made = self._work / "model"
        error = folder.write(made, plan, self._phase("write"))
        on = task if before is None else before.tokens
        after = self._after(made, on)
        record = compression.Compression(
            source=source.manifest.name,
            source_digest=source.manifest.digest,
            method=plan.method,
            before=_side(source, before),
            after=after,
            text=None if on is None else on.name,
            weight_error=None if plan.quantization is None else error.share,
            removed=plan.removed,
            influence=influences,
        )
        (made / compression.FILE).write_bytes(compression.encode(record))
        return self._keep(made) | {"compression": msgspec.to_builtins(record)}

    def _plan(self, kept: tuple[int, ...]) -> Plan:
        spec = self._spec
        group = None if spec.bits != 4 else spec.group or request.GROUP
        return Plan(self._source, kept, Quantization(spec.bits, group) if spec.bits else None, spec.head)

    def _measured(self, phase: str, home: Path, name: str, on: Tokens | Task | None) -> Measured | None:
        """None where memory does not hold the model: what needs no figures goes on without them."""
        settings = {"home": home, "dtype": self._dtype, "threads": self._context.threads}
        try:
            made = measure(name, on, self._phase(phase), memory=self._context.memory_bytes, **settings)
            self._context.line(
                f"{name}: perplexity {made.perplexity:.2f} on {made.tokens.name}, {made.weight_bytes} bytes"
            )
            return made
        except OutOfMemory as error:
            if self._spec.drop_layers:
                raise
            self._context.line(f"{name} is not measured: {error.message}")
            return None

    def _influence(self, before: Measured | None) -> tuple[float, ...]:
        """Of every layer; empty where it isn't asked for."""
        if not self._spec.drop_layers:
            return ()
        assert before is not None
        decoder = load(self._source.files, self._dtype)
        assert isinstance(decoder, LoadedDecoder)
        found = influence(decoder, before.tokens.windows, self._phase("layers"))
        for number, value in enumerate(found):
            self._context.line(f"layer {number}: influence {value:.4f}")
        return found

    def _after(self, made: Path, on: Tokens | Task | None) -> compression.Side:
        """Of the folder ``made``, read and run as any other model, in a store of its own."""
        store = Store(self._work / "home")
        manifest = store.import_folder(made, self._spec.name)
        result = open_source(store, manifest)
        measured = None if on is None else self._measured("after", store.home.root, manifest.name, on)
        return _side(result, measured)

    def _keep(self, made: Path) -> dict[str, Any]:
        shutil.rmtree(self._work / "home")
        self._phase("store")(0, 1)
        request.check(self._spec, self._context.store)  # the name may have been given to another model meanwhile
        manifest = self._context.store.import_folder(made, self._spec.name)
        self._context.progress(100, 100, "done")
        return {"model": manifest.name, "digest": manifest.digest}

    def _phase(self, name: str) -> Report:
        """Counts a phase's steps into the whole, and stops the work when it should."""
        start, end, note = _PHASES[name]

        def report(done: int, total: int) -> None:
            self._context.leave_if_stopping()
            share = start + (end - start) * done // max(1, total)
            if (share, note) != self._shown:
                self._shown = (share, note)
                self._context.progress(share, 100, note)

        return report


def _side(source: Source, measured: Measured | None) -> compression.Side:
    return compression.Side(
        precision=source.precision,
        layers=source.depth,
        parameters=parameters(source.slots),
        size_bytes=source.manifest.size_bytes,
        weight_bytes=None if measured is None else measured.weight_bytes,
        perplexity=None if measured is None else measured.perplexity,
    )
