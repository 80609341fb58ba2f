"""docs/benchmarks.md and its charts, from docs/benchmarks.json and nothing else."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from benchmarks import charts, record
from benchmarks.record import Row, Side
from benchmarks.statistics import best, ratio, spread
from benchmarks.turns import QUIET
from benchmarks.workloads import WORKLOADS

GIB, MIB = 1 << 30, 1 << 20
SAME_BYTES = 0.03
"""Stored bytes further apart than this are not the same precision."""

HEAD = """# Beside other engines

Written by `make bench`, from [the raw figures](benchmarks.json); every number below is from a run on the machine that
its row names. A part of it: `make bench WHAT=decode MODEL=qwen05 PRECISION=bf16`.

How it is measured: all contenders are brought up, each in a process of its own; then, in every round, each does the
same work alone on the machine, another one first each time, while the others are stopped. The reading bandwidth is
measured before each run, on a buffer as large as Kelm's weights. A ratio is that of the medians, and in brackets the
least and the most of single rounds. Weights are random, in the shapes of Qwen2.5-0.5B (qwen05) and Llama-3.2-1B
(llama1b); prompts are {source}. "Kelm executor" is Kelm without scheduler,
sampler and text. In brackets is what ran: only what says native ran on the compiled kernels. Memory is what a
contender's processes hold (PSS), as if nobody else mapped the large files that they map. "others" is the share of the
machine that somebody else took meanwhile. "llama.cpp, passive" has `OMP_WAIT_POLICY=PASSIVE`: where others want a core
too, threads that spin for one another lose the most.

Peers are run as their documentation has it for throughput on a CPU, in process:
[llama.cpp](../benchmarks/drivers/llama.py), [OpenVINO GenAI](../benchmarks/drivers/genai.py),
[vLLM](../benchmarks/drivers/vllm_engine.py); [Kelm](../benchmarks/drivers/engine.py),
[its executor](../benchmarks/drivers/executor.py); [servers](../benchmarks/servers.py).
"""


def write_document(docs: Path) -> None:
    """``docs``/benchmarks.md, and pictures in ``docs``/images."""
    rows = record.read(docs / "benchmarks.json")
    order = list(WORKLOADS)
    rows.sort(key=lambda row: (row.model, order.index(row.workload), row.precision))
    source = rows[0].prompt_source if rows else "random"
    parts = [HEAD.format(source=source), *(_warnings(rows))]
    for name in charts.draw(rows, docs / "images"):
        parts.append(f"![{name}](images/{name}.png)\n")
    parts += ["## At a glance\n", *_glance(rows), *(_section(row) for row in rows)]
    (docs / "benchmarks.md").write_text("\n".join(parts), encoding="utf-8")


def _warnings(rows: list[Row]) -> list[str]:
    disturbed = [row for row in rows if any(side.others and median(side.others) > QUIET for side in row.sides)]
    if not disturbed:
        return []
    return [
        f"**Not final:** somebody else used the machine in {len(disturbed)} of {len(rows)} rows, marked with *; see the"
        ' column "others". Repeat them on a quiet machine.\n'
    ]


def _glance(rows: list[Row]) -> list[str]:
    lines = ["| model | precision | work | Kelm | best of the others | ratio |", "|---|---|---|---|---|---|"]
    for row in rows:
        ours = _ours(row)
        peers = _peers(row) or [side for side in row.sides if side.values and side is not ours]
        if ours is None or not peers:
            continue
        peer = peers[best([side.values for side in peers], less_is_better=less_is_better(row))]
        cells = (
            row.model,
            row.precision,
            WORKLOADS[row.workload].title,
            f"{_value(row, ours)} {ours.facts.label}",
            f"{_value(row, peer)} {peer.facts.label}",
            _ratio(row, ours, peer) + _mark(row),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _section(row: Row) -> str:
    columns = ("", row.unit, "quartiles", "Kelm's ratio to it", "share of bandwidth", "bytes", "precision", "KV")
    lines = [
        f"## {row.model}, {row.precision}: {WORKLOADS[row.workload].title}\n",
        "| " + " | ".join([*columns, "threads", "memory", "others"]) + " |",
        "|" + "---|" * (len(columns) + 3),
        *(_line(row, side) for side in row.sides),
        "",
        *_bytes_note(row),
        *(f"{name} did not take part: {reason}.\n" for name, reason in row.absent.items()),
        *_probe(row),
        f"{row.machine.processor}, {row.machine.cores} cores ({row.machine.features}),"
        f" {row.machine.memory_bytes / GIB:.0f} GiB; {row.date}; commit {row.commit}; {_rounds(row)};"
        f" {_versions(row)}. Prompts: {row.prompt_source}.\n\n```sh\n{row.command}\n```\n",
    ]
    return "\n".join(lines)


def _line(row: Row, side: Side) -> str:
    ours, facts = _ours(row), side.facts
    found = spread(side.values)
    cells = [
        facts.label + (_mark(row) if _disturbed(side) else ""),
        f"{found.median:,.{_digits(row)}f}",
        f"{found.quarter:,.{_digits(row)}f} to {found.three_quarters:,.{_digits(row)}f}",
        "" if ours is None or side is ours else _ratio(row, ours, side),
        _share(row, side),
        f"{facts.weight_bytes:,}",
        facts.precision,
        facts.kv,
        str(facts.threads),
        f"{side.held_bytes / MIB:,.0f} MiB",
        f"{median(side.others):.0%}" if side.others else "",
    ]
    return "| " + " | ".join(cells) + " |"


def less_is_better(row: Row) -> bool:
    return row.unit == "s"


def _ours(row: Row) -> Side | None:
    """Kelm as it is used; in the row of overhead, that is its server."""
    wanted = "Kelm server" if row.workload == "overhead" else None
    ours = [side for side in row.sides if side.facts.ours and side.values]
    named = [side for side in ours if side.facts.name == (wanted or side.facts.name)]
    usual = [side for side in named if side.facts.name != "Kelm executor"]
    return (usual or named or [None])[0]


def _peers(row: Row) -> list[Side]:
    return [side for side in row.sides if not side.facts.ours and side.values]


def _ratio(row: Row, ours: Side, other: Side) -> str:
    found = ratio(ours.values, other.values, less_is_better=less_is_better(row))
    return f"{found.value:.2f} ({found.least:.2f} to {found.most:.2f})"


def _share(row: Row, side: Side) -> str:
    """Of the bandwidth that reading all weights once a step takes; only where a step is one token of one stream."""
    workload = WORKLOADS[row.workload]
    if workload.figure != "decode" or workload.streams != 1 or not row.bandwidth:
        return ""
    return f"{side.facts.weight_bytes * median(side.values) / median(row.bandwidth):.0%}"


def _bytes_note(row: Row) -> list[str]:
    ours = _ours(row)
    if ours is None:
        return []
    apart = [
        f"{side.facts.label}'s by {side.facts.weight_bytes / ours.facts.weight_bytes - 1:+.0%}"
        for side in _peers(row)
        if abs(side.facts.weight_bytes / ours.facts.weight_bytes - 1) > SAME_BYTES
    ]
    return [f"Not quite the same precision: stored bytes differ from Kelm's, {', '.join(apart)}.\n"] if apart else []


def _probe(row: Row) -> list[str]:
    if not row.bandwidth:
        return []
    found = spread(row.bandwidth)
    return [
        f"Bandwidth between the runs: {found.median / 1e9:.1f} GB/s"
        f" ({found.least / 1e9:.1f} to {found.most / 1e9:.1f}).\n"
    ]


def _rounds(row: Row) -> str:
    count = max((len(side.values) for side in row.sides), default=0)
    return "1 round" if count == 1 else f"{count} rounds"


def _versions(row: Row) -> str:
    return ", ".join(f"{side.facts.name} {side.facts.version} ({side.facts.runs_as})" for side in row.sides)


def _value(row: Row, side: Side) -> str:
    return f"{median(side.values):,.{_digits(row)}f} {row.unit}"


def _digits(row: Row) -> int:
    return 2 if less_is_better(row) else 1


def _disturbed(side: Side) -> bool:
    return bool(side.others) and median(side.others) > QUIET


def _mark(row: Row) -> str:
    return "\\*" if any(_disturbed(side) for side in row.sides) else ""
