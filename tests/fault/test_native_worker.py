"""A worker process whose decoder runs natively: no torch in it, and who chose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_worker_process import KIND, Worker

from kelm.ops import native
from kelm.testing.checkpoints import write_llama
from kelm.wire.messages import Load, Loaded, LoadFailed, Quit, Sampling, Step, Submit
from kelm.worker.settings import EngineSettings

pytestmark = pytest.mark.skipif(not native.available(), reason="the install has no compiled kernels")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = write_llama(tmp_path_factory.mktemp("native"))
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    started: list[Worker] = []
    yield started
    for worker in started:
        worker.process.kill()
        worker.process.wait()
        worker.socket.close()


def load(worker: Worker, files: dict[str, str], dtype: str, **more: str) -> Loaded | LoadFailed:
    worker.send(Load(model="m", files=files, dtype=dtype, **more))  # type: ignore[arg-type]
    heard = worker.until(lambda report: isinstance(report, Loaded | LoadFailed))[-1]
    assert isinstance(heard, Loaded | LoadFailed)
    return heard


def generate(worker: Worker) -> tuple[list[int], dict[str, int]]:
    """Tokens, and the worker's count of steps."""
    worker.send(Submit(pid=1, model="m", prompt=[*range(5, 45)], sampling=Sampling(seed=0, max_tokens=12)))
    heard = worker.until(lambda report: isinstance(report, Step) and any(one.finish for one in report.tokens))
    steps = [report for report in heard if isinstance(report, Step)]
    return [token for step in steps for one in step.tokens for token in one.ids], steps[-1].counters.steps


def mapped(worker: Worker) -> str:
    return Path(f"/proc/{worker.process.pid}/maps").read_text()


@pytest.mark.parametrize(("executor", "runs_on"), [("auto", "native"), ("native", "native"), ("torch", "torch")])
def test_who_runs_a_bfloat16_decoder(files: dict[str, str], workers: list[Worker], executor: str, runs_on: str) -> None:
    workers.append(worker := Worker("kelm.worker", replace(KIND, executor=executor)))
    loaded = load(worker, files, "bfloat16")
    assert isinstance(loaded, Loaded) and loaded.executor == runs_on and loaded.dtype == "bfloat16"
    tokens, steps = generate(worker)
    assert len(tokens) == 12 and set(steps) == {runs_on}
    # The proof is in what the process has mapped: a test's own sys.modules says nothing about another process.
    assert "_native" in mapped(worker) and ("libtorch" in mapped(worker)) == (runs_on == "torch")
    worker.send(Quit())
    assert worker.process.wait(10) == 0


def test_what_has_no_kernels_runs_on_torch_unless_native_is_asked_for(
    files: dict[str, str], workers: list[Worker]
) -> None:
    workers.append(worker := Worker("kelm.worker", KIND))
    loaded = load(worker, files, "float16")
    assert isinstance(loaded, Loaded) and loaded.executor == "torch"
    workers.append(strict := Worker("kelm.worker", replace(KIND, executor="native")))
    refused = load(strict, files, "float16")
    assert isinstance(refused, LoadFailed) and refused.code == "unsupported_model"
    assert "no kernels for float16" in refused.message and "executor" in refused.message


def test_a_slab_that_holds_no_whole_block_runs_on_torch(files: dict[str, str], workers: list[Worker]) -> None:
    tight = EngineSettings(memory_bytes=16 << 20, kv_bytes=1 << 18, slab_bytes=1 << 10, step_tokens=64)
    workers.append(worker := Worker("kelm.worker", tight))
    loaded = load(worker, files, "bfloat16")
    assert isinstance(loaded, Loaded) and loaded.executor == "torch"
    tokens, _ = generate(worker)
    assert len(tokens) == 12


def test_a_config_that_is_wrong_is_the_same_error_on_both(
    files: dict[str, str], workers: list[Worker], tmp_path: Path
) -> None:
    config = json.loads(Path(files["config.json"]).read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 3}))
    broken = files | {"config.json": str(tmp_path / "config.json")}
    heard = []
    for executor in ("auto", "torch"):
        workers.append(worker := Worker("kelm.worker", replace(KIND, executor=executor)))
        heard.append(load(worker, broken, "bfloat16"))
    assert isinstance(heard[0], LoadFailed) and heard[0] == heard[1]


def test_weights_are_packed_once_and_mapped_from_then_on(
    files: dict[str, str], workers: list[Worker], tmp_path: Path
) -> None:
    """The same answer from memory, from an image that is made now, from that image, and where none can be written."""
    digest = "sha256:" + 64 * "a"
    (tmp_path / "file").touch()
    answers = []
    for images in ("", str(tmp_path / "images"), str(tmp_path / "images"), str(tmp_path / "file")):
        workers.append(worker := Worker("kelm.worker", KIND))
        loaded = load(worker, files, "bfloat16", images=images, digest=digest)
        assert isinstance(loaded, Loaded) and loaded.executor == "native"
        answers.append((generate(worker)[0], loaded.weight_bytes))
        assert (f"{tmp_path}/images/" in mapped(worker)) == images.endswith("images")
    assert answers.count(answers[0]) == 4
