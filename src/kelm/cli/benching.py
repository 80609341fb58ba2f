"""`kelm bench`: the model runs in this process; what can be refused is, before it is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kelm.cli.tables import count, print_json, print_table, size
from kelm.clock import SYSTEM
from kelm.config import load_settings

if TYPE_CHECKING:
    from kelm.bench import Figures
    from kelm.bench.measure import Progress


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asked for, beside the model."""

    prompt_tokens: int | None
    tokens: int | None
    streams: str
    repeats: int
    as_json: bool


def bench(model: str, wanted: Wanted) -> None:
    """Raises InvalidRequest for numbers out of bounds, and what loading and running the model raise."""
    settings = load_settings()
    # As a worker has them (worker/__main__.py): read by tensor libraries when they are imported.
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from kelm import LLM
    from kelm.bench import Plan, measure, read_streams
    from kelm.cli import shelf

    plan = Plan(wanted.prompt_tokens, wanted.tokens, read_streams(wanted.streams), wanted.repeats)
    shelf.ensure(model)
    rows = max(settings.max_num_seqs, *plan.streams)
    began_s = SYSTEM.monotonic_s()
    with closing(LLM(model, max_num_seqs=rows)) as llm, _progress() as progress:
        figures = measure(llm, plan, SYSTEM.monotonic_s() - began_s, progress)
    if wanted.as_json:
        print_json(figures.as_json())
    else:
        _show(figures)


def _show(figures: Figures) -> None:
    weights = size(figures.weight_bytes)
    if figures.bandwidth is not None:
        weights += f", which this machine reads at {figures.bandwidth / 1e9:.1f} GB/s"
    threads = "1 thread" if figures.threads == 1 else f"{figures.threads} threads"
    facts = [
        ("model", f"{figures.model.partition('@sha256:')[0]}: {figures.architecture}, {count(figures.parameters)}"),
        ("runs as", f"{figures.dtype}, executor {figures.executor}, {threads}"),
        ("processor", figures.processor + (f", {figures.isa}" if figures.isa else "")),
        ("weights", weights),
        ("load", f"{figures.load_s:.2f} s"),
        (
            "prefill",
            f"{figures.prefill_tokens_s:,.0f} tok/s; the first token after {figures.first_token_s:.3f} s,"
            f" for a prompt of {figures.prompt_tokens}",
        ),
    ]
    print_table((), facts)
    print()
    print_table(
        ("STREAMS", "TOK/S", "TOK/S EACH", "MS A STEP", "OF BANDWIDTH"),
        [_row(figures, n) for n in range(len(figures.decode))],
    )


def _row(figures: Figures, number: int) -> tuple[object, ...]:
    one = figures.decode[number]
    share = figures.share(one)
    each = one.tokens_s / one.streams
    return (
        one.streams,
        round(one.tokens_s, 1),
        round(each, 1),
        round(one.step_s * 1e3, 2),
        None if share is None else f"{share:.0%}",
    )


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr; nothing is drawn where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("loading", total=None)
        yield lambda what, done, total: bars.update(bar, description=what, completed=done, total=total)
