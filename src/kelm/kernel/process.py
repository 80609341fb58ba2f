"""A generation in flight: what the worker reports goes in, what its client may read comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, Self

from msgspec.structs import replace

from kelm import limits
from kelm.clock import Clock
from kelm.errors import Cancelled, KelmError, WorkerFailed
from kelm.kernel.choice import Choice
from kelm.kernel.outbox import Outbox
from kelm.kernel.processes import Job, Record, State
from kelm.kernel.requests import Chunk, Generation, Usage
from kelm.wire.messages import Move, Started, Submit, TokenLogprobs, Tokens

Place = Literal["queued", "running", "parked"]


class Host(Protocol):
    """The kernel, as a process sees it."""

    clock: Clock

    def settle(self, job: Job) -> None:
        """``job.held`` has changed."""
        ...

    def drop_choice(self, pid: int, choice: int) -> None: ...

    def ended(self, job: Job, *, in_worker: bool) -> None: ...


class Process:
    """An async iterator of Chunks for one reader; a Job (processes.py) for the kernel.

    When more than limits.STREAM_BUFFER_BYTES wait for the reader, the process is paused in its worker until half of
    them are read; a reader that takes nothing for limits.STALL_TIMEOUT_S then is cut off.
    """

    def __init__(self, record: Record, request: Generation, choices: Sequence[Choice], host: Host) -> None:
        self.record = record
        self.request = request
        self._choices = choices
        self._host = host
        self._outbox = Outbox()
        self._prompt_logprobs: list[TokenLogprobs | None] | None = None
        self._held = False
        self._at: Place = "queued"
        """Where it is, its reader left aside."""
        self._taken_s = host.clock.monotonic_s()
        record.account.prompt_tokens = len(request.prompt)

    # for the client

    @property
    def pid(self) -> int:
        return self.record.pid

    @property
    def request_id(self) -> str:
        return self.record.request_id

    @property
    def usage(self) -> Usage:
        """So far; final after the last chunk."""
        account = self.record.account
        return Usage(account.prompt_tokens, account.generated_tokens, account.cached_tokens)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        """Raises the KelmError that the process ended with, after what was produced before it."""
        chunk = await self._outbox.take()
        if chunk is None:
            raise StopAsyncIteration
        self._taken_s = self._host.clock.monotonic_s()
        if self._held and self._outbox.bytes <= limits.STREAM_BUFFER_BYTES.value / 2:
            self._hold(False)
        return chunk

    def cancel(self) -> None:
        """The client is gone or wants no more: out of the worker before its next step. Harmless after the end."""
        self.fail(Cancelled(f"request {self.request_id} was cancelled"))

    # for the kernel

    @property
    def held(self) -> bool:
        return self._held

    @property
    def buffered_bytes(self) -> int:
        return self._outbox.bytes

    def command(self) -> Submit:
        fresh = not any(choice.known for choice in self._choices)
        return Submit(
            pid=self.pid,
            model=self.record.key,
            prompt=self.request.prompt,
            sampling=self.request.sampling,
            n=self.request.n,
            generated=[] if fresh else [choice.known for choice in self._choices],
            finished=[choice.index for choice in self._choices if choice.finish is not None],
            salt=self.record.salt,
            priority=self.record.priority,
            share=self.record.standing.number,
            weight=self.record.standing.share.weight,
            counter=self.record.standing.share.counter,
        )

    def started(self, report: Started) -> None:
        """First blocks. After a restart they are given again, which is the worker's affair, not the client's."""
        account = self.record.account
        if account.started_s is None:
            account.started_s = self._host.clock.monotonic_s()
            account.cached_tokens = report.cached_tokens
        self._be("running")

    def moved(self, move: Move) -> None:
        """The worker says where it is."""
        if move.state == "queued" and self._at != "queued":
            self.record.account.preempted += 1
        if move.state == "parked" and self._at != "parked":
            self.record.account.parked += 1
        self.record.wants = move.wants
        self._be(move.state)

    def prompt_scored(self, entries: list[TokenLogprobs | None]) -> None:
        """Log-probabilities of the prompt, for the first chunk."""
        self._prompt_logprobs = entries

    def receive(self, tokens: Tokens) -> int:
        """What one choice got in a step. Returns how many tokens count (those past a stop string don't)."""
        choice = self._choices[tokens.choice]
        if self.record.finished or choice.finish is not None:
            return 0
        if tokens.finish in ("abort", "error"):
            self.fail(WorkerFailed(f"the worker gave up request {self.request_id}"), in_worker=False)
            return 0
        before = choice.counted
        chunk = choice.receive(tokens)
        self.record.account.generated_tokens += choice.counted - before
        if chunk is not None:
            self._outbox.put(self._with_prompt_logprobs(chunk))
        if choice.finish is not None:
            self._choice_over(choice, in_worker=tokens.finish is None)
        if not self.record.finished and self._outbox.bytes > limits.STREAM_BUFFER_BYTES.value:
            self._hold(True)
        return choice.counted - before

    def lost(self) -> None:
        self.record.wants = ""
        self._be("queued")

    def set_aside(self) -> None:
        if self._at == "running":
            self._be("parked")

    def fail(self, error: KelmError, *, in_worker: bool = True) -> None:
        if not self.record.finished:
            self._outbox.close(error)
            self._leave("cancelled" if isinstance(error, Cancelled) else "failed", in_worker=in_worker)

    def cut_if_stalled(self) -> None:
        """Called regularly: end it when its buffer is full and nobody reads."""
        stalled_s = self._host.clock.monotonic_s() - self._taken_s
        if self._held and stalled_s > limits.STALL_TIMEOUT_S.value:
            self._outbox.discard()
            self.fail(Cancelled(f"request {self.request_id} was cut: nothing was read for {stalled_s:.0f} s"))

    def gap_s(self, choice: int, now_s: float) -> float | None:
        """Seconds since this choice's tokens before these; None for its first."""
        last_s, self._choices[choice].last_s = self._choices[choice].last_s, now_s
        return None if last_s is None else now_s - last_s

    def finish_reasons(self) -> list[str]:
        """How each choice ended; of those that did not end, how the process did."""
        rest = "abort" if self.record.state == "cancelled" else "error"
        return [choice.finish or rest for choice in self._choices]

    def _with_prompt_logprobs(self, chunk: Chunk) -> Chunk:
        entries, self._prompt_logprobs = self._prompt_logprobs, None
        return chunk if entries is None else replace(chunk, prompt_logprobs=entries)

    def _choice_over(self, choice: Choice, *, in_worker: bool) -> None:
        if all(each.finish is not None for each in self._choices):
            self._outbox.close()
            self._leave("done", in_worker=in_worker)
        elif in_worker:
            self._host.drop_choice(self.pid, choice.index)

    def _be(self, at: Place) -> None:
        self._at = at
        if not self._held and self.record.state != at:
            self.record.transition(at)

    def _hold(self, held: bool) -> None:
        if held == self._held:
            return
        self._held = held
        if self._at == "running":
            self._at = "parked"  # until the worker says that it goes on
        self.record.transition("paused" if held else self._at)
        self._host.settle(self)

    def _leave(self, state: State, *, in_worker: bool) -> None:
        self._held = False
        self.record.transition(state)
        self._host.ended(self, in_worker=in_worker)
