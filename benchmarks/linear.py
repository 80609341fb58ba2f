"""Products with packed weights against what bounds them: the memory at one row, the multipliers at many.

    python benchmarks/linear.py [--model qwen2.5-0.5b] [--threads 2] [--rounds 9]

A pass is every product of one decode step, layer by layer over weights of their own, so that the caches hold what they
would hold in a model. Its floor is reading the same bytes once. Formats, that reading, and torch's bf16 linear take
turns in every round; printed are medians, the quartiles around them, and the best round.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kelm.clock import SystemClock
from kelm.ops import native, packed

clock = SystemClock()
Floats = npt.NDArray[np.float32]
Measured = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Model:
    """[outputs, inputs] of the products of a layer, and of the head."""

    layers: int
    layer: tuple[tuple[int, int], ...]
    head: tuple[int, int]


MODELS = {
    "qwen2.5-0.5b": Model(24, ((1152, 896), (896, 896), (9728, 896), (896, 4864)), (151936, 896)),
    "llama-3.2-1b": Model(16, ((3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192)), (128256, 2048)),
}
FORMATS: tuple[packed.Format, ...] = ("bf16", "int8", "int4")
MANY = (16, 128, 512)
LAYERS_AT_MANY = 2
"""Multiplying is slower than reading there, and two layers outgrow a core's own caches."""


@dataclass(frozen=True, slots=True)
class Weights:
    """All of a model's matrices in one piece of memory, as an image has them."""

    data: npt.NDArray[np.uint8]
    layers: list[packed.Packed]
    head: packed.Packed


def make_weights(pool: native.Pool, model: Model, form: packed.Format) -> Weights:
    """Each shape is drawn and packed once, and copied for the other layers."""
    noise = np.random.default_rng(1)
    made = {s: packed.pack(pool, noise.standard_normal(s, np.float32), form) for s in {*model.layer, model.head}}
    shapes = [*model.layer * model.layers, model.head]
    data = packed.empty(sum(made[s].data.nbytes for s in shapes))
    placed, start = [], 0
    for shape in shapes:
        view = data[start : start + made[shape].data.nbytes]
        view[:] = made[shape].data
        placed.append(packed.Packed(view, *shape, form))
        start += view.nbytes
    return Weights(data, placed[:-1], placed[-1])


def products(pool: native.Pool, matrices: list[packed.Packed], rows: int) -> Callable[[], None]:
    noise = np.random.default_rng(2)
    x = {m.inputs: noise.standard_normal((rows, m.inputs), np.float32) for m in matrices}
    out = {m.outputs: np.empty((rows, m.outputs), np.float32) for m in matrices}

    def run() -> None:
        for matrix in matrices:
            packed.linear(pool, x[matrix.inputs], matrix, out=out[matrix.outputs])

    return run


def torch_products(shapes: list[tuple[int, int]], rows: int, threads: int) -> Callable[[], None] | None:
    """The same in torch with bf16 weights and activations; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    weights = [torch.randn(shape, dtype=torch.bfloat16) for shape in shapes]
    x = {inputs: torch.randn(rows, inputs, dtype=torch.bfloat16) for _, inputs in shapes}

    @torch.inference_mode()
    def run() -> None:
        for weight in weights:
            torch.nn.functional.linear(x[weight.shape[1]], weight)

    return run


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> Measured:
    """Seconds of each round, the first one left out."""
    found: Measured = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = clock.monotonic_s()
            run()
            found[name].append(clock.monotonic_s() - start)
    return {name: seconds[1:] for name, seconds in found.items()}


def rates(amount: float, seconds: list[float]) -> str:
    low, middle, high = np.percentile(amount / np.array(seconds), (25, 50, 75))
    return f"{middle:7.1f} ({low:.1f} to {high:.1f}), best {amount / min(seconds):.1f}"


def one_row(pool: native.Pool, model: Model, form: packed.Format, rounds: int) -> None:
    weights = make_weights(pool, model, form)
    found = in_turns(
        {
            "reading": lambda: packed.read_all(pool, weights.data),
            "a step's products": products(pool, [*weights.layers, weights.head], 1),
        },
        rounds,
    )
    reading, step = found["reading"], found["a step's products"]
    size = weights.data.nbytes / 1e9
    shares = np.array(reading) / np.array(step)
    print(f"  {form:5} {size:5.2f} GB  reading {rates(size, reading)} GB/s")
    print(f"        products {rates(size, step)} GB/s; share {np.median(shares):.0%}, of bests "
          f"{min(reading) / min(step):.0%}; {np.median(step) * 1e3:.1f} ms")  # fmt: skip


def many_rows(pool: native.Pool, model: Model, rows: int, rounds: int) -> None:
    shapes = list(model.layer) * LAYERS_AT_MANY
    runs = {
        form: products(pool, [packed.pack(pool, np.ones(s, np.float32), form) for s in shapes], rows)
        for form in (*FORMATS, "float32")
    }
    torch_run = torch_products(shapes, rows, pool.threads)
    if torch_run:
        runs["torch bf16"] = torch_run
    work = 2e-9 * rows * sum(outputs * inputs for outputs, inputs in shapes)
    for name, seconds in in_turns(runs, rounds).items():
        print(f"  {rows:4} rows  {name:10} {rates(work, seconds)} GFLOP/s")


def print_peaks() -> None:
    compiler = shutil.which("c++")
    if not compiler:
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        source = Path(__file__).with_name("peak.cpp")
        subprocess.run([compiler, "-O3", "-std=c++17", "-march=native", source, "-o", program], check=True)
        print("one core, in registers, 10^9 operations a second:")
        print(subprocess.run([program], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    pool = native.pool(chosen.threads)
    print(f"{native.isa()}, {chosen.threads} threads; medians, quartiles and bests of {chosen.rounds} rounds\n")
    print_peaks()
    for name in chosen.model or MODELS:
        model = MODELS[name]
        print(f"{name}, one row: every product of a step")
        for form in FORMATS:
            one_row(pool, model, form, chosen.rounds)
        print(f"{name}, many rows: the products of {LAYERS_AT_MANY} layers")
        for rows in MANY:
            many_rows(pool, model, rows, chosen.rounds)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
