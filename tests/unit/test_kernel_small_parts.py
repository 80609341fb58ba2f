"""Process table, admission, outbox, daemon file, control rows, metrics: one noun at a time."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from kelm import limits
from kelm.clock import SYSTEM, ManualClock
from kelm.errors import Cancelled, ConfigError, ContextTooLong, InvalidRequest, Overloaded, Unavailable
from kelm.kernel import control, daemonfile
from kelm.kernel.admission import Admission, check_prompt
from kelm.kernel.daemonfile import DaemonFile
from kelm.kernel.encodings import EncodeJob
from kelm.kernel.models import Entry
from kelm.kernel.outbox import Outbox, chunk_bytes
from kelm.kernel.processes import MOVES, ProcessTable, Record
from kelm.kernel.requests import Chunk, Encoding
from kelm.kernel.supervisor import Supervisor
from kelm.observe.metrics import Metrics
from kelm.observe.watchdog import LoopWatchdog
from kelm.wire.messages import Counters, Encoded, Loaded, TokenLogprobs

INFO = Loaded(
    model="m", executor="torch", kind="decoder", architecture="A", dtype="float32", parameters=1, weight_bytes=4,
    max_context_tokens=100, vocab=50, hidden=2, tasks=["generate"],
)  # fmt: skip


def record(table: ProcessTable, rows: int = 1) -> Record:
    return Record(table.new_pid(), "r", "t", "m:latest", "m", "embed", rows, 0.0)


class Host:
    def __init__(self, table: ProcessTable) -> None:
        self.table = table
        self.again = 0

    def returned(self, job: object) -> None:
        self.again += 1

    def ended(self, job: EncodeJob, *, in_worker: bool) -> None:
        self.table.remove(job.record.pid)


def job(table: ProcessTable, rows: int = 1, inputs: list[list[int]] | None = None, piece: int = 10) -> EncodeJob:
    request = Encoding(request_id="r", model="m", task="embed", inputs=inputs or [[1]])
    made = EncodeJob(record(table, rows), request, piece, Host(table))
    table.add(made)
    return made


def test_the_state_table_is_held_and_an_end_is_final() -> None:
    for before, after in itertools.product(MOVES, MOVES):
        row = record(ProcessTable())
        row.state = before
        if after in MOVES[before]:
            row.transition(after)
            assert row.state == after
        else:
            with pytest.raises(AssertionError):
                row.transition(after)
        assert not (row.finished and MOVES[row.state])


async def test_pids_are_never_used_again() -> None:
    table = ProcessTable()
    first = job(table)
    table.remove(first.record.pid)
    assert job(table).record.pid > first.record.pid
    assert len(table) == 1 and table.get(first.record.pid) is None


@pytest.mark.parametrize(("places", "queued", "admitted"), [(4, 0, 4), (4, 3, 7), (1, 0, 1), (64, 10, 74)])
async def test_as_many_as_run_and_as_many_as_may_queue(places: int, queued: int, admitted: int) -> None:
    table = ProcessTable()
    gate = Admission(places, queued, table, random.Random(0))
    gate.open()
    for _ in range(admitted):
        gate.check(1, 0)
        job(table)
    with pytest.raises(Overloaded, match=f"the limit is {queued}"):
        gate.check(1, 0)


async def test_choices_count_as_rows_and_a_process_wider_than_the_worker_still_runs() -> None:
    table = ProcessTable()
    gate = Admission(4, 1, table, random.Random(0))
    gate.open()
    gate.check(9, 0)
    job(table, rows=9)
    gate.check(1, 0)
    job(table)
    with pytest.raises(Overloaded):
        gate.check(1, 0)


def test_a_closed_gate_and_a_long_line_say_when_to_come_back() -> None:
    gate = Admission(4, 4, ProcessTable(), random.Random(0))
    with pytest.raises(Unavailable, match="starting"):
        gate.check(1, 0)
    gate.open()
    gate.check(1, int(limits.COMMAND_BACKLOG_BYTES.value))
    with pytest.raises(Overloaded) as full:
        gate.check(1, int(limits.COMMAND_BACKLOG_BYTES.value) + 1)
    assert full.value.retry_after_s is not None
    waits = {gate.retry_after_s() for _ in range(50)}
    assert len(waits) == 50
    assert all(0.5 <= wait / limits.RETRY_AFTER_S.value <= 1.5 for wait in waits)
    gate.close("the daemon is shutting down")
    with pytest.raises(Unavailable, match="shutting down"):
        gate.check(1, 0)


def test_prompts_at_and_past_their_bounds() -> None:
    check_prompt([0, 49], 98, INFO)
    for prompt in ([50], [-1], []):
        with pytest.raises(InvalidRequest) as wrong:
            check_prompt(prompt, 1, INFO)
        assert wrong.value.param == "prompt"
    with pytest.raises(ContextTooLong) as long:
        check_prompt([0, 49], 99, INFO)
    assert long.value.code == "context_length_exceeded" and long.value.param == "max_tokens"
    with pytest.raises(ContextTooLong) as longer:
        check_prompt([0] * 101, 0, INFO)
    assert longer.value.param == "prompt"


async def test_an_outbox_counts_bytes_and_gives_what_it_has_before_the_error() -> None:
    outbox = Outbox()
    chunks = [Chunk(choice=0, text="héllo"), Chunk(choice=0, text="", ids=[1, 2])]
    for chunk in chunks:
        outbox.put(chunk)
    assert outbox.bytes == sum(map(chunk_bytes, chunks))
    outbox.close(Cancelled("gone"))
    outbox.close()  # the first end counts
    assert [await outbox.take(), await outbox.take()] == chunks
    assert outbox.bytes == 0
    with pytest.raises(Cancelled):
        await outbox.take()


async def test_an_outbox_wakes_its_reader() -> None:
    outbox = Outbox()
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.put(Chunk(choice=0, text="x"))
    assert await taking == Chunk(choice=0, text="x")
    ending = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.close()
    assert await ending is None


def test_a_chunk_with_logprobs_weighs_more() -> None:
    entry = TokenLogprobs(1, -1.0, 1, [(1, -1.0)] * 20)
    plain = chunk_bytes(Chunk(choice=0, text="x"))
    assert chunk_bytes(Chunk(choice=0, text="x", logprobs=[entry])) > plain + 20 * 16
    assert chunk_bytes(Chunk(choice=0, text="x", prompt_logprobs=[None, entry])) > plain + 20 * 16


async def test_pieces_of_an_encoding_cover_its_inputs_in_order() -> None:
    table = ProcessTable()
    inputs = [[1] * 4, [2] * 7, [3] * 30, [4], [5]]
    encoding = job(table, inputs=inputs, piece=10)
    pieces = []
    while not encoding.record.finished:
        command = encoding.command()
        pieces.append([tokens[0] for tokens in command.inputs])
        rows = [bytes([tokens[0], 0, 128, 63]) for tokens in command.inputs]
        encoding.receive(Encoded(pid=1, shapes=[[1]] * len(rows), data=rows))
    assert pieces == [[1], [2], [3], [4, 5]]
    assert [array.tobytes()[0] for array in await encoding.result()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "answer",
    [
        Encoded(pid=1, shapes=[[2]], data=[b"1234"]),
        Encoded(pid=1, shapes=[], data=[]),
        Encoded(pid=1, shapes=[[1]], data=[b"123"]),
    ],
)
async def test_a_malformed_answer_fails_its_own_encoding(answer: Encoded) -> None:
    table = ProcessTable()
    encoding = job(table)
    encoding.receive(answer)
    assert encoding.record.state == "failed" and len(table) == 0


def test_one_daemon_for_each_home(tmp_path: Path) -> None:
    assert daemonfile.owner(tmp_path) is None
    held = DaemonFile.acquire(tmp_path, "http://127.0.0.1:1", SYSTEM, "secret")
    with pytest.raises(ConfigError, match=rf"pid {os.getpid()} at http://127.0.0.1:1"):
        DaemonFile.acquire(tmp_path, "http://127.0.0.1:2", SYSTEM)
    held.announce("http://127.0.0.1:54321")
    held.announce("http://127.0.0.1:3")
    found = daemonfile.owner(tmp_path)
    assert found is not None and (found.pid, found.address) == (os.getpid(), "http://127.0.0.1:3")
    path = tmp_path / "run" / "daemon.json"
    assert set(json.loads(path.read_text())) == {"pid", "address", "started", "token"} and found.token == "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    held.release()
    assert not path.exists() and daemonfile.owner(tmp_path) is None


def test_the_file_of_a_killed_daemon_is_stale(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from kelm.clock import SYSTEM;"
        "from kelm.kernel.daemonfile import DaemonFile;"
        "DaemonFile.acquire(Path(sys.argv[1]), 'http://x', SYSTEM); os.kill(os.getpid(), 9)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(daemonfile.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, check=False)
    assert (tmp_path / "run" / "daemon.json").exists()
    assert daemonfile.owner(tmp_path) is None
    DaemonFile.acquire(tmp_path, "http://127.0.0.1:1", SYSTEM).release()


async def test_the_rows_have_exactly_the_keys_that_are_documented() -> None:
    table = ProcessTable()
    encoding = job(table)
    entry = Entry("m:latest", "m", 0.0)
    rows = {
        control.process_row: control.process_row(encoding, None, 1.0),
        control.model_row: control.model_row(entry, table),
        control.worker_row: control.worker_row(Supervisor(["none"], SYSTEM, None)),  # type: ignore[arg-type]
    }
    for function, row in rows.items():
        assert all(key in (inspect.getdoc(function) or "") for key in row), function
        json.dumps(row)
    assert rows[control.model_row]["state"] == "loading"


def counters(steps: int, free: int = 5) -> Counters:
    return Counters(free, 10, 1, 0, steps, 0, 0, steps, 0, {"torch": steps})


def test_totals_go_on_over_a_restart() -> None:
    metrics = Metrics()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    for steps in (3, 3, 7):
        metrics.counters(counters(steps))
    metrics.worker_restarted()
    metrics.counters(counters(2, free=10))
    assert value("kelm_steps_total", executor="torch") == 9
    assert value("vllm:num_preemptions_total") == 9
    assert value("kelm_worker_restarts_total") == 1
    assert (value("kelm_kv_blocks_free"), value("kelm_kv_blocks_total")) == (10, 10)
    assert value("vllm:kv_cache_usage_perc") == 0


def test_the_exposition_has_the_names_that_dashboards_ask_for() -> None:
    metrics = Metrics()
    metrics.watch_requests(lambda: {"m:latest": (2, 3)})
    metrics.ended("m:latest", 0.4, ["stop", "abort"])
    metrics.ttft.labels("m:latest").observe(0.1)
    metrics.itl.labels("m:latest").observe(0.1)
    metrics.prompt_tokens.labels("m:latest").inc(5)
    metrics.generation_tokens.labels("m:latest").inc(6)
    text = metrics.render().decode()
    for line in (
        'vllm:num_requests_running{model_name="m:latest"} 2.0',
        'vllm:num_requests_waiting{model_name="m:latest"} 3.0',
        "vllm:kv_cache_usage_perc 0.0",
        'vllm:prompt_tokens_total{model_name="m:latest"} 5.0',
        'vllm:generation_tokens_total{model_name="m:latest"} 6.0',
        'vllm:time_to_first_token_seconds_count{model_name="m:latest"} 1.0',
        'vllm:inter_token_latency_seconds_count{model_name="m:latest"} 1.0',
        'vllm:e2e_request_latency_seconds_count{model_name="m:latest"} 1.0',
        'vllm:request_success_total{finished_reason="stop",model_name="m:latest"} 1.0',
        "kelm_kv_blocks_free 0.0",
        "kelm_worker_restarts_total 0.0",
        "kelm_event_loop_lag_seconds 0.0",
    ):
        assert line in text.splitlines(), line


async def test_the_watchdog_sees_a_blocked_loop() -> None:
    metrics, clock = Metrics(), ManualClock()
    watchdog = LoopWatchdog(metrics, clock)
    task = asyncio.create_task(watchdog.run())
    await asyncio.sleep(0.01)
    clock.advance(0.05 + 0.3)  # as if something had held the loop for 0.3 s longer than the sleep
    await asyncio.sleep(0.1)
    task.cancel()
    assert watchdog.worst_s == pytest.approx(0.3)
    assert metrics.registry.get_sample_value("kelm_event_loop_lag_seconds") == pytest.approx(0.3)
