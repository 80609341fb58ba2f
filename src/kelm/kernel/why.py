"""`kelm why PID`: what a process is doing or waiting for, from what the mechanism itself has said.

Nothing here is guessed: the state is the table's, a model's way into memory is its entry's, a trial is the
dispatcher's, and a lack of a row, tokens or blocks is what the worker's plan said with the last step that changed it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kelm import limits
from kelm.kernel.arrival import Arrival
from kelm.kernel.encodings import EncodeJob
from kelm.kernel.models import Entry
from kelm.kernel.processes import Job, Record
from kelm.kernel.tenants import Tenants
from kelm.wire.messages import Counters

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known at one moment around one process."""

    entry: Entry | None
    """Of its model; None while that is looked up, or after it was unloaded."""
    worker_open: bool
    """A worker is up and has its models."""
    trial: tuple[int, ...]
    """Suspects that it waits for."""
    counters: Counters | None
    """Of the worker's last step."""
    rows_max: int
    others: list[Job]
    """Unfinished ones of the same model."""
    tenants: Tenants


def explain(job: Job, sight: Sight) -> Row:
    """Why a process is where it is.

    pid, model, kind, tenant, priority, state (as in `kelm ps`), text (a paragraph that says all of it), waits_for: None
    (it runs), model, tokenizer, worker, suspects, reader, row, tokens, blocks or turn; model_phase, model_done_bytes
    and model_total_bytes (of the load that is waited for), suspects (pids on trial), buffered_bytes (not yet read by
    the client), rows_used and rows_max (of the last step), blocks_free and blocks_total; ahead_by_priority,
    ahead_by_tenant (tenants further behind) and ahead_by_arrival (processes of the same model that are served first);
    preempted, parked (how often), recomputed_tokens; weight, served_tokens (of its tenant), share_wanted (1 is all;
    None when its tenant wants nothing now) and share_served (of the last limits.SHARE_WINDOW_S; None when nothing was
    served).
    """
    waits_for, sentence = _reason(job, sight)
    record = job.record
    counters, loading = sight.counters, waits_for == "model" and sight.entry is not None
    row = {
        "pid": record.pid,
        "model": record.model,
        "kind": record.kind,
        "tenant": record.tenant,
        "priority": record.priority,
        "state": record.state,
        "waits_for": waits_for,
        "model_phase": sight.entry.phase if loading and sight.entry else None,
        "model_done_bytes": sight.entry.done_bytes if loading and sight.entry else None,
        "model_total_bytes": sight.entry.total_bytes if loading and sight.entry else None,
        "suspects": list(sight.trial),
        "buffered_bytes": job.buffered_bytes,
        "rows_used": None if counters is None else counters.rows,
        "rows_max": sight.rows_max,
        "blocks_free": None if counters is None else counters.blocks_free,
        "blocks_total": None if counters is None else counters.blocks_total,
        **dict(zip(("ahead_by_priority", "ahead_by_tenant", "ahead_by_arrival"), _ahead(job, sight), strict=True)),
        "preempted": record.account.preempted,
        "parked": record.account.parked,
        "recomputed_tokens": record.account.recomputed_tokens,
        "weight": record.standing.share.weight,
        "served_tokens": record.standing.served_tokens,
        "share_wanted": _rounded(sight.tenants.wanted_share(record.standing)),
        "share_served": _rounded(sight.tenants.served_share(record.standing)),
    }
    head = f"Process {record.pid} ({record.kind} on {record.model}, priority {record.priority}) is {record.state}"
    return {**row, "text": f"{head}: {sentence}. {_history(record)} {_standing(row)}"}


def _reason(job: Job, sight: Sight) -> tuple[str | None, str]:
    """What it waits for, and the sentence about it."""
    if isinstance(job, Arrival):
        return _way_in(job, sight.entry)
    if job.held:
        bound = int(limits.STREAM_BUFFER_BYTES.value)
        return "reader", (
            f"its client reads slowly: {job.buffered_bytes} bytes wait for it; it goes on when {bound // 2} are left"
        )
    if not sight.worker_open:
        return "worker", "the worker is being started, and its models are brought back first"
    if sight.trial:
        pids = ", ".join(map(str, sight.trial))
        return "suspects", f"the worker died, and until it is known of whom only the suspects run now: {pids}"
    if isinstance(job, EncodeJob):
        return "turn", (
            f"{job.done_inputs} of its {len(job.request.inputs)} inputs are done; a piece of one encoding runs between "
            f"two steps, and {_before(job, sight)}"
        )
    if job.record.state == "running":
        return None, "it was in the last step of its model"
    return _lack(job, sight)


def _way_in(job: Arrival, entry: Entry | None) -> tuple[str | None, str]:
    if entry is None:
        return "model", "its model is being looked up"
    if entry.model is not None:
        return "tokenizer", "its model is in memory, and its prompt is being made into tokens"
    share = f" {entry.done_bytes / entry.total_bytes:.0%}" if entry.total_bytes else ""
    return "model", f"it waits for model {entry.name}: {entry.phase}{share}"


def _lack(job: Job, sight: Sight) -> tuple[str | None, str]:
    counters = sight.counters
    if job.record.wants == "row":
        used = "all" if counters is None else f"{counters.rows} of {sight.rows_max}"
        return "row", f"it waits for a row: {used} were used in the last step, and {_before(job, sight)}"
    if job.record.wants == "tokens":
        return "tokens", f"the tokens of the last step went to others, and {_before(job, sight)}"
    if job.record.wants == "blocks":
        free = "few" if counters is None else f"{counters.blocks_free} of {counters.blocks_total}"
        return "blocks", f"it waits for KV blocks: {free} are free, and {_before(job, sight)}"
    return "turn", "the worker has it, and it waits for the next step of its model"


def _before(job: Job, sight: Sight) -> str:
    priority, tenant, arrival = _ahead(job, sight)
    if not priority + tenant + arrival:
        return "nobody is ahead of it"
    parts = (
        (priority, "by priority"),
        (tenant, "because their tenants are further behind"),
        (arrival, "because they came earlier"),
    )
    told = ", ".join(f"{number} {why}" for number, why in parts if number)
    return f"{priority + tenant + arrival} processes are ahead of it: {told}"


def _ahead(job: Job, sight: Sight) -> tuple[int, int, int]:
    """Those of its model that are served first: by priority, by their tenant's counter, by arrival."""
    own, rivals = job.record, list(_rivals(job, sight.others))
    priority = sum(other.priority < own.priority for other in rivals)
    same = [other for other in rivals if other.priority == own.priority]
    tenant = sum(other.standing.share.counter < own.standing.share.counter for other in same)
    even = [other for other in same if other.standing.share.counter == own.standing.share.counter]
    return priority, tenant, sum(other.pid < own.pid for other in even)


def _rivals(job: Job, others: Iterable[Job]) -> Iterable[Record]:
    """Encodings have a line of their own."""
    encoding = job.record.kind != "generate"
    for other in others:
        if other is not job and not other.held and (other.record.kind != "generate") == encoding:
            yield other.record


def _history(record: Record) -> str:
    account = record.account
    return (
        f"It was parked {account.parked} times and preempted {account.preempted} times, and "
        f"{account.recomputed_tokens} of its tokens were computed again."
    )


def _standing(row: Row) -> str:
    who = f"Tenant {row['tenant']} has weight {row['weight']}"
    due = row["share_wanted"]
    wanted = "wants nothing now" if due is None else f"is due {due:.0%} of what is served"
    served = "" if row["share_served"] is None else f", and got {row['share_served']:.0%} in the last minute"
    return f"{who}, {wanted}{served}."


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
