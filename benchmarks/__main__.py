"""`make bench`, or a part of it: `make bench WHAT=decode MODEL=qwen05 PRECISION=bf16`."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Mapping

from benchmarks import contenders, machine, record, servers, setup
from benchmarks.contenders import Absent, Contender, Target
from benchmarks.document import write_document
from benchmarks.turns import Outcome, Turns
from benchmarks.workloads import WORKLOADS, Workload
from kelm.machine import default_threads

MODELS = ("qwen05", "llama1b")
PRECISIONS = tuple(contenders.GGUF)
EVERYBODY = ["llama", "openvino", "vllm"]
DOCS = machine.ROOT / "docs"
Makers = Mapping[str, Callable[[Target], Contender]]


def main() -> int:
    asked = _arguments()
    targets = [Target(model, precision, asked.threads) for model in asked.model for precision in asked.precision]
    makers = {name: _makers(WORKLOADS[name], asked.who) for name in asked.what}
    if not asked.no_setup:
        setup.build(targets, {name for some in makers.values() for name in some})
    failed = 0
    for target in targets:
        for name in asked.what:
            failed += not _measure(WORKLOADS[name], target, makers[name], asked)
    write_document(DOCS)
    print(f"written: {DOCS / 'benchmarks.md'}")
    return 1 if failed else 0


def _measure(workload: Workload, target: Target, makers: Makers, asked: argparse.Namespace) -> bool:
    print(f"{target.model} {target.precision}: {workload.title}", flush=True)
    turns = Turns(
        workload, target, asked.rounds or workload.rounds, lambda text: print(text, flush=True), asked.patience
    )
    try:
        found = turns.play_anew(makers) if workload.place == "new process" else turns.play(makers)
    except Absent as reason:
        print(f"  not measured: {reason}", flush=True)
        return False
    _keep(workload, target, found, asked)
    return True


def _keep(workload: Workload, target: Target, found: Outcome, asked: argparse.Namespace) -> None:
    row = record.Row(
        model=target.model,
        precision=target.precision,
        workload=workload.name,
        unit=workload.unit,
        prompt_source=workload.prompt_source,
        sides=found.sides,
        bandwidth=found.bandwidth,
        absent=found.absent,
        machine=machine.describe(),
        commit=machine.commit(),
        command=_command(workload, target, asked),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path = DOCS / "benchmarks.json"
    record.write(path, record.merge(record.read(path), [row]))


def _command(workload: Workload, target: Target, asked: argparse.Namespace) -> str:
    """What gives this row again."""
    words = [f"make bench WHAT={workload.name} MODEL={target.model} PRECISION={target.precision}"]
    words += [f'WHO="{" ".join(asked.who)}"'] if asked.who != EVERYBODY else []
    words += [f"ROUNDS={asked.rounds}"] if asked.rounds else []
    words += [f"PATIENCE={asked.patience:g}"] if asked.patience else []
    return " ".join(words)


def _makers(workload: Workload, who: list[str]) -> Makers:
    """Who takes part in a workload: who of its place were asked for, and Kelm always."""
    match workload.place:
        case "in process":
            some = contenders.IN_PROCESS
        case "new process":
            some = {name: make for name, make in contenders.IN_PROCESS.items() if name != "kelm-executor"}
        case "server":
            some = servers.SERVERS
        case "overhead":
            return {"kelm-executor": contenders.kelm_executor, "kelm": contenders.kelm_engine, "server": servers.kelm}
    return {name: make for name, make in some.items() if name.partition("-")[0] in ("kelm", *who)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--what", nargs="+", choices=[*WORKLOADS, "all"], default=["all"])
    parser.add_argument("--model", nargs="+", choices=[*MODELS, "all"], default=["all"])
    parser.add_argument("--precision", nargs="+", choices=[*PRECISIONS, "all"], default=["all"])
    parser.add_argument("--who", nargs="+", choices=EVERYBODY, default=EVERYBODY)
    parser.add_argument("--rounds", type=int, help="instead of each workload's own number")
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait before each run for a quiet machine")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--no-setup", action="store_true", help="build nothing; who is not there does not take part")
    asked = parser.parse_args()
    for name, every in (("what", list(WORKLOADS)), ("model", list(MODELS)), ("precision", list(PRECISIONS))):
        if "all" in getattr(asked, name):
            setattr(asked, name, every)
    if asked.rounds is not None and asked.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {asked.rounds}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
