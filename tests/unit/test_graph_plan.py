"""What the passes of a plan do: fewer ops, fewer waits, less memory. That the answer stays the same is tested with
weights (tests/property/test_native_invariance.py)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kelm.models.graph.build import whole_head
from kelm.models.graph.fuse import fuse_sums
from kelm.models.graph.ops import LOGITS, Buffer, Epilogue, Graph, Kind, Op
from kelm.models.graph.plan import PASSES, Plan, make_plan
from kelm.models.spec import DecoderSpec, LayerSpec
from kelm.ops.rotation import Rope

LAYERS = 3


def spec(**changes: object) -> DecoderSpec:
    layer = LayerSpec(window=None, rope=Rope(1e4), score_scale=0.25)
    sizes: dict[str, object] = {
        "vocab": 100,
        "hidden": 64,
        "intermediate": 160,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "layers": (layer,) * LAYERS,
        "learned_positions": 0,
        "embedding_scale": 1.0,
        "norm": "rms",
        "norm_eps": 1e-5,
        "qk_norm": False,
        "post_norms": False,
        "qkv_bias": False,
        "out_bias": False,
        "mlp_bias": False,
        "gated": True,
        "activation": "silu",
        "score_cap": None,
        "logit_cap": None,
        "tied": True,
    }
    return DecoderSpec(**{**sizes, **changes})  # type: ignore[arg-type]


def without(*left: str, **changes: object) -> Plan:
    return make_plan(spec(**changes), tuple(name for name in PASSES if name not in left))


def kinds(plan: Plan) -> list[Kind]:
    return [op.kind for op in plan.graph.ops]


def floats(plan: Plan) -> int:
    """For each row, beside the caller's logits."""
    return max(offset + pitch for offset, pitch, _ in plan.buffers[:-1].tolist())


def waits(plan: Plan) -> int:
    return int(plan.ops[-1, 1]) + 1


def test_a_llama_is_eight_ops_a_layer_and_seven_waits() -> None:
    plan = without("narrow")
    layer = [
        Kind.RMS_NORM, Kind.LINEAR, Kind.ROTATE, Kind.WRITE_KV, Kind.ATTENTION, Kind.LINEAR,
        Kind.RMS_NORM, Kind.LINEAR, Kind.LINEAR,
    ]  # fmt: skip
    head = [Kind.PICK, Kind.RMS_NORM, Kind.LINEAR]
    first = [*layer[:2], Kind.ANGLES, *layer[2:]]
    assert kinds(plan) == [Kind.EMBED, *first, *layer * (LAYERS - 1), *head]
    # norm | qkv | rotate, write | attention | out | norm | up | down      and the head: pick, norm | product
    assert waits(plan) == 8 * LAYERS + 2


def test_gates_and_sums_become_epilogues() -> None:
    plan = without()
    assert Kind.GATE not in kinds(plan) and Kind.ADD not in kinds(plan)
    found = [op.epilogue for op in plan.graph.ops if op.kind == Kind.LINEAR]
    assert found == [Epilogue.NONE, Epilogue.ADD, Epilogue.GATE, Epilogue.ADD] * LAYERS + [Epilogue.NONE]
    assert kinds(without("fuse_gates")).count(Kind.GATE) == LAYERS
    assert kinds(without("fuse_sums")).count(Kind.ADD) == 2 * LAYERS


def test_what_another_op_reads_is_written_as_it_is() -> None:
    made = Op(Kind.LINEAR, x="a", out="b", matrix="w")
    summed = Op(Kind.ADD, x="b", out="x", width=16)
    buffers = {name: Buffer(16) for name in "abcx"}
    assert len(fuse_sums(Graph((made, summed), buffers)).ops) == 1
    later = Op(Kind.ACTIVATE, x="b", out="c", width=16)
    assert fuse_sums(Graph((made, summed, later), buffers)).ops == (made, summed, later)


def test_a_norm_between_keeps_a_sum_apart() -> None:
    plan = without(post_norms=True)
    assert kinds(plan).count(Kind.ADD) == 2 * LAYERS


def test_the_last_layer_ends_with_the_picked_rows() -> None:
    plan = without()
    ops = plan.graph.ops
    last = max(number for number, op in enumerate(ops) if op.kind == Kind.ATTENTION)
    assert all(plan.graph.buffers[op.out].picked for op in ops[last + 1 :])
    assert not any(plan.graph.buffers[op.out].picked for op in ops[: last + 1])
    wide = without("narrow")
    assert sum(wide.graph.buffers[op.out].picked for op in wide.graph.ops) == 3


def test_ops_on_rows_share_a_wait() -> None:
    assert waits(without("phases")) == len(without("phases").ops)
    assert waits(without()) < waits(without("phases"))


@pytest.mark.parametrize("changes", [{}, {"post_norms": True, "head_dim": 14}, {"gated": False, "norm": "layer"}])
def test_buffers_that_are_needed_at_once_do_not_overlap(changes: dict[str, object]) -> None:
    plan = without(**changes)
    phases = plan.ops[:, 1].tolist()
    names = [name for name in plan.graph.buffers if name != LOGITS]
    places = {name: plan.buffers[number].tolist() for number, name in enumerate(names)}
    for phase in range(waits(plan)):
        alive = [
            (places[name][0], places[name][0] + places[name][1])
            for name in names
            if (uses := [phases[n] for n in plan.graph.uses(name)]) and min(uses) <= phase <= max(uses)
        ]
        assert all(end <= begin for (_, end), (begin, _) in pairwise(sorted(alive))), phase


def test_memory_is_that_of_one_layer() -> None:
    deep = spec(layers=spec().layers * 10)
    assert floats(make_plan(deep)) == floats(without())
    assert floats(without("memory")) > LAYERS * floats(without()) / 2


@pytest.mark.parametrize(("head_dim", "whole"), [(16, 16), (2, 16), (14, 16), (18, 32), (128, 128)])
def test_heads_are_filled_up_to_whole_tiles(head_dim: int, whole: int) -> None:
    assert whole_head(head_dim) == whole
    plan = without(head_dim=head_dim)
    assert (Kind.SPREAD in kinds(plan)) == (Kind.GATHER_HEADS in kinds(plan)) == (head_dim != whole)
    assert all(op.width == whole for op in plan.graph.ops if op.kind in (Kind.ATTENTION, Kind.WRITE_KV))
