"""What an operator sees, as plain data: ``kelm ps`` and friends, and the admin doors behind them.

Every function returns JSON-ready values; bytes, tokens and counts are integers, seconds are floats, a moment is Unix
time. The keys are an interface: they are added to, never renamed.
"""

from __future__ import annotations

from typing import Any

from kelm.kernel.models import Entry, Model
from kelm.kernel.processes import Job, ProcessTable
from kelm.kernel.supervisor import Supervisor
from kelm.kernel.tenants import Tenant, Tenants
from kelm.store.names import Name

Row = dict[str, Any]


def process_row(job: Job, model: Model | None, now_s: float) -> Row:
    """One line of ``kelm ps``.

    pid, request_id, tenant, priority (lower is earlier), model, kind (generate, embed, ...), executor (native, torch,
    fallback; None while the model is away), state (queued, running, parked, paused), choices, prompt_tokens,
    cached_tokens, generated_tokens, buffered_bytes (not yet read by the client), created (Unix time), seconds (since
    then).
    """
    record, account = job.record, job.record.account
    return {
        "pid": record.pid,
        "request_id": record.request_id,
        "tenant": record.tenant,
        "priority": record.priority,
        "model": record.model,
        "kind": record.kind,
        "executor": None if model is None else model.info.executor,
        "state": record.state,
        "choices": record.rows,
        "prompt_tokens": account.prompt_tokens,
        "cached_tokens": account.cached_tokens,
        "generated_tokens": account.generated_tokens,
        "buffered_bytes": job.buffered_bytes,
        "created": record.arrived_wall_s,
        "seconds": round(now_s - account.arrived_s, 3),
    }


def model_row(entry: Entry, table: ProcessTable) -> Row:
    """One line of ``kelm ps --models``.

    name, base (of a variant: its base's name), state (loading, resident), done_bytes and total_bytes of a load, loaded
    (Unix time at which the load was asked for), processes (unfinished ones); and once it is resident: kind,
    architecture, executor, dtype, parameters, weight_bytes (its own), shared_bytes (of a variant: what it uses of its
    base's), max_context_tokens, tasks, seconds (what the load took). None before.
    """
    info = None if entry.model is None else entry.model.info
    return {
        "name": entry.name,
        "base": None if entry.base is None else str(Name.parse(entry.name).base),
        "state": "loading" if info is None else "resident",
        "done_bytes": entry.done_bytes,
        "total_bytes": entry.total_bytes,
        "loaded": entry.since_wall_s,
        "processes": len(table.of_model(entry.key)),
        **{key: None if info is None else getattr(info, key) for key in _INFO},
    }


_INFO = (
    *("kind", "architecture", "executor", "dtype", "parameters", "weight_bytes", "shared_bytes"),
    *("max_context_tokens", "tasks", "seconds"),
)


def tenant_row(tenant: Tenant, tenants: Tenants, table: ProcessTable) -> Row:
    """One line of ``kelm ps --tenants``.

    tenant, weight, running, parked, paused, queued (its processes by state; encodings count as queued), served_tokens
    (since the daemon started), counter (virtual tokens: who has fewer is served first), share_wanted (of what is
    served now, by weight; None when it wants nothing), share_served (of the last limits.SHARE_WINDOW_S; None when
    nothing was).
    """
    states = [job.record.state for job in table if job.record.standing is tenant]
    wanted, served = tenants.wanted_share(tenant), tenants.served_share(tenant)
    return {
        "tenant": tenant.name,
        "weight": tenant.share.weight,
        **{state: states.count(state) for state in ("running", "parked", "paused", "queued")},
        "served_tokens": tenant.served_tokens,
        "counter": round(tenant.share.counter, 3),
        "share_wanted": None if wanted is None else round(wanted, 4),
        "share_served": None if served is None else round(served, 4),
    }


def worker_row(supervisor: Supervisor) -> Row:
    """The worker: pid (of the OS process; None while there is none), state (up, starting), restarts, threads,
    numerics (None until it is up)."""
    hello = supervisor.hello
    return {
        "pid": supervisor.os_pid,
        "state": "starting" if hello is None else "up",
        "restarts": supervisor.restarts,
        "threads": None if hello is None else hello.threads,
        "numerics": None if hello is None else hello.numerics,
    }
