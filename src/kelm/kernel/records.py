"""New rows of the process table: who asks, for what, on whose account."""

from __future__ import annotations

import hashlib
import secrets

from kelm.clock import Clock
from kelm.kernel.arrival import Arrival
from kelm.kernel.models import Model
from kelm.kernel.processes import ProcessTable, Record, Task
from kelm.kernel.requests import Encoding, Generation, Origin
from kelm.kernel.tenants import Tenants


class Records:
    """Of one daemon. Salts are keyed by a secret of its own, so that nobody can make another tenant's."""

    def __init__(self, table: ProcessTable, tenants: Tenants, clock: Clock) -> None:
        self._table = table
        self._tenants = tenants
        self._clock = clock
        self._salt_key = secrets.token_bytes(32)

    def arriving(self, origin: Origin) -> Record:
        """Its model isn't known yet."""
        return self._new(origin, self._table.new_pid(), origin.task, 1)

    def begun(
        self, request: Generation | Encoding, model: Model, kind: Task, rows: int, arrival: Arrival | None
    ) -> Record:
        """``arrival``: in whose place it comes; pid, time and priority go on."""
        pid = self._table.new_pid() if arrival is None else arrival.pid
        record = self._new(request, pid, kind, rows)
        record.model, record.key = model.name, model.key
        if arrival is not None:
            record.arrived_wall_s = arrival.record.arrived_wall_s
            record.account.arrived_s = arrival.record.account.arrived_s
            record.priority = arrival.record.priority
        return record

    def _new(self, request: Generation | Encoding | Origin, pid: int, kind: Task, rows: int) -> Record:
        tenant = request.tenant
        record = Record(
            pid=pid,
            request_id=request.request_id,
            tenant=tenant,
            model=request.model,
            key="",
            kind=kind,
            rows=rows,
            arrived_wall_s=self._clock.wall_s(),
            salt=hashlib.blake2b(tenant.encode(), key=self._salt_key, digest_size=16).digest(),
            priority=request.priority,
            standing=self._tenants.of(tenant),
        )
        record.account.arrived_s = self._clock.monotonic_s()
        return record
