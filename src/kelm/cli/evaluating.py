"""`kelm eval`: the model runs in this process, which imports torch; what can be refused is, before it is loaded."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kelm import limits
from kelm.cli.tables import print_json
from kelm.errors import ConfigError

if TYPE_CHECKING:
    from kelm.evaluate.results import Result
    from kelm.evaluate.runner import Progress

NEEDED = ("torch", "sacrebleu", "rouge_score")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asked for, beside model and task."""

    out: Path | None
    limit: int | None
    max_tokens: int
    as_json: bool


def evaluate(model: str, task: Path, wanted: Wanted) -> None:
    """Raises ConfigError without what kelm[eval] brings, and what reading the task and running the model raise."""
    missing = [module for module in NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"kelm eval needs {', '.join(missing)}, not installed here: pip install 'kelm[eval]'")
    from kelm import LLM
    from kelm import evaluate as evaluation
    from kelm.evaluate import report

    rows = evaluation.read(task, wanted.limit)
    limits.EVAL_MAX_TOKENS.check(wanted.max_tokens, field="max_tokens")
    if wanted.out is not None:
        report.check_out(wanted.out)
    with closing(LLM(model)) as llm, _progress(task.name) as progress:
        result = evaluation.evaluate(llm, rows, progress, max_tokens=wanted.max_tokens)
    if wanted.out is not None:
        report.write_png(result, wanted.out)
    _show(result, wanted)


def _show(result: Result, wanted: Wanted) -> None:
    if wanted.as_json:
        print_json(result.as_json())
        return
    from rich.console import Console

    from kelm.evaluate import report

    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    for table in report.tables(result):
        with console.capture() as drawn:
            console.print(table)
        print("\n".join(line.rstrip() for line in drawn.get().splitlines()), end="\n\n")
    if wanted.out is not None:
        print(f"the picture is in {wanted.out}")


@contextmanager
def _progress(name: str) -> Iterator[Progress]:
    """A bar on stderr; nothing is drawn where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(name, total=None)
        yield lambda done, rows: bars.update(bar, completed=done, total=rows)
