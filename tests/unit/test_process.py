"""One generation between its worker and its reader, without either."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from kelm import limits
from kelm.clock import ManualClock
from kelm.errors import Cancelled, OutOfMemory, WorkerFailed
from kelm.kernel.choice import Choice
from kelm.kernel.process import Process
from kelm.kernel.processes import Job, ProcessTable, Record
from kelm.kernel.requests import Generation
from kelm.text.stream import TextStream
from kelm.wire.messages import FinishReason, Move, Sampling, Started, TokenLogprobs, Tokens


class Bytes:
    """A tokenizer whose token i is byte i; 0 is special."""

    special_ids = frozenset({0})

    @property
    def pieces(self) -> Bytes:
        return self

    def bytes_of(self, token: int, first: bool) -> bytes:
        return bytes([token])

    def tail_of(self, token: int) -> bytes:
        return b""


@dataclass
class Host:
    clock: ManualClock = field(default_factory=ManualClock)
    told: list[tuple[Any, ...]] = field(default_factory=list)

    def settle(self, job: Job) -> None:
        self.told.append(("held" if job.held else "released",))

    def drop_choice(self, pid: int, choice: int) -> None:
        self.told.append(("drop", choice))

    def ended(self, job: Job, *, in_worker: bool) -> None:
        self.told.append(("ended", job.record.state, in_worker))


@pytest.fixture
def host() -> Host:
    return Host()


def process(host: Host, n: int = 1, stop: tuple[str, ...] = ()) -> Process:
    request = Generation(
        request_id="r", model="m", prompt=[1, 2, 3], n=n, stop=stop, sampling=Sampling(seed=5, max_tokens=99)
    )
    choices = [Choice(i, TextStream(Bytes(), stop)) for i in range(n)]  # type: ignore[arg-type]
    record = Record(ProcessTable().new_pid(), "r", "t", "m:latest", "key", "generate", n, 0.0, b"salt")
    return Process(record, request, choices, host)


def say(
    process: Process,
    text: str | bytes,
    choice: int = 0,
    finish: FinishReason | None = None,
    stop_token: int | None = None,
) -> int:
    ids = list(text.encode() if isinstance(text, str) else text)
    return process.receive(Tokens(1, choice, ids, None, finish, stop_token))


async def texts(process: Process) -> list[str]:
    return [chunk.text async for chunk in process]


async def test_what_a_new_worker_is_told(host: Host) -> None:
    one = process(host, n=3, stop=("END",))
    assert (one.command().generated, one.command().finished, one.command().salt) == ([], [], b"salt")
    say(one, "ab")
    say(one, "xxENDyy", choice=1)
    say(one, "c")
    command = one.command()
    assert command.generated == [list(b"abc"), list(b"xxENDyy"), []]
    assert command.finished == [1]
    assert (command.pid, command.model, command.n, command.prompt) == (1, "key", 3, [1, 2, 3])


async def test_a_stop_string_ends_its_choice_in_the_worker_and_the_last_one_ends_the_process(host: Host) -> None:
    one = process(host, n=2, stop=("END",))
    assert say(one, "xxENDyy", choice=1) == 5
    assert host.told == [("drop", 1)]
    assert say(one, "more", choice=1) == 0
    assert say(one, b"", choice=1, finish="abort") == 0  # the worker's answer to the drop
    say(one, "zEND")
    assert host.told == [("drop", 1), ("ended", "done", True)]
    assert one.usage.completion_tokens == 5 + 4
    assert await texts(one) == ["xx", "z"]
    assert one.finish_reasons() == ["stop", "stop"]


async def test_an_end_that_the_worker_decided_is_not_told_to_it(host: Host) -> None:
    one = process(host)
    say(one, b"ab\0", finish="stop", stop_token=0)
    assert host.told == [("ended", "done", False)]
    chunks = [chunk async for chunk in one]
    assert [(chunk.text, chunk.ids, chunk.finish, chunk.stop) for chunk in chunks] == [("ab", [97, 98, 0], "stop", 0)]
    assert one.usage.completion_tokens == 3


async def test_one_chunk_for_each_step_that_has_text_and_no_half_characters(host: Host) -> None:
    one = process(host)
    euro = "€".encode()
    for part in (euro[:1], euro[1:2], euro[2:] + b"ab", b"\0", b"c"):
        say(one, part)
    say(one, b"", finish="length")
    chunks = [chunk async for chunk in one]
    assert [chunk.text for chunk in chunks] == ["€ab", "c", ""]
    assert [chunk.ids for chunk in chunks] == [[*euro, 97, 98], [0, 99], []]
    assert chunks[-1].finish == "length"


async def test_the_buffer_holds_and_releases_and_is_cut(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_BUFFER_BYTES", replace(limits.STREAM_BUFFER_BYTES, default=1024))
    one = process(host)
    one.started(Started(1, 0))
    while not one.held:
        say(one, "word ")
    assert one.buffered_bytes > 1024 and one.record.state == "paused"
    say(one, "was on its way")
    while one.held:
        await anext(one)
    assert one.buffered_bytes <= 512 and one.record.state == "parked"  # until the worker says that it goes on
    one.moved(Move(1, "running"))
    assert one.record.state == "running"
    assert host.told == [("held",), ("released",)]
    while not one.held:
        say(one, "word ")
    host.clock.advance(limits.STALL_TIMEOUT_S.value)
    one.cut_if_stalled()
    await anext(one)  # took something: the time starts anew
    host.clock.advance(limits.STALL_TIMEOUT_S.value)
    one.cut_if_stalled()
    assert not one.record.finished
    host.clock.advance(1)
    one.cut_if_stalled()
    assert one.record.state == "cancelled" and one.buffered_bytes == 0
    with pytest.raises(Cancelled, match="nothing was read"):
        await anext(one)


async def test_a_reader_that_is_quick_is_never_cut(host: Host) -> None:
    one = process(host)
    host.clock.advance(10_000)
    one.cut_if_stalled()
    assert not one.record.finished


async def test_a_paused_process_whose_worker_died_waits_in_the_queue_once_it_is_read(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_BUFFER_BYTES", replace(limits.STREAM_BUFFER_BYTES, default=1024))
    one = process(host)
    one.started(Started(1, 2))
    while not one.held:
        say(one, "word ")
    one.lost()
    assert one.record.state == "paused"
    while one.held:
        await anext(one)
    assert one.record.state == "queued"
    one.started(Started(1, 3))
    assert one.record.state == "running"
    assert one.usage.cached_tokens == 2  # what the client was told first


@pytest.mark.parametrize("error", [OutOfMemory("no blocks"), Cancelled("gone")])
async def test_an_error_comes_after_what_was_produced_and_only_once(host: Host, error: Exception) -> None:
    one = process(host)
    say(one, "some")
    one.fail(error)  # type: ignore[arg-type]
    one.cancel()
    say(one, "late", finish="length")
    assert len(host.told) == 1
    assert (await anext(one)).text == "some"
    with pytest.raises(type(error)):
        await anext(one)


async def test_a_worker_that_gives_up_is_an_error_not_a_short_answer(host: Host) -> None:
    one = process(host)
    say(one, "some")
    say(one, b"", finish="abort")
    assert (await anext(one)).text == "some"
    with pytest.raises(WorkerFailed):
        await anext(one)


async def test_prompt_logprobs_ride_on_the_first_chunk(host: Host) -> None:
    one = process(host)
    entries = [None, TokenLogprobs(2, -1.0, 1, [])]
    one.prompt_scored(entries)
    say(one, "a")
    say(one, "b", finish="length")
    chunks = [chunk async for chunk in one]
    assert [chunk.prompt_logprobs for chunk in chunks] == [entries, None]


async def test_gaps_are_measured_for_each_choice(host: Host) -> None:
    one = process(host, n=2)
    assert one.gap_s(0, 1.0) is None and one.gap_s(1, 1.5) is None
    assert (one.gap_s(0, 2.0), one.gap_s(1, 4.0)) == (1.0, 2.5)
