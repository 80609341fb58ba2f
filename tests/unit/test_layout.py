"""memory/layout.py: how slabs are cut."""

import pytest

from kelm.errors import UnsupportedModel
from kelm.memory.layout import BlockLayout, GroupShape, lay_out

SLAB = 2 << 20


@pytest.mark.parametrize(
    ("token_bytes", "block_tokens"),
    [
        (100, 16),
        (22 * 4 * 2 * 64 * 4, 4),  # 16 and 8 tokens a block would waste 31 % and 14 % of each slab
        (SLAB // 16, 16),
        (SLAB // 16 + 1, 2),
        (SLAB // 8, 8),
        (SLAB // 4, 4),
        (SLAB, 1),
        (SLAB // 2 + 1, 1),
    ],
)
def test_block_tokens_are_the_most_that_fit_without_much_slack(token_bytes: int, block_tokens: int) -> None:
    (layout,) = lay_out([GroupShape(token_bytes)], SLAB)
    assert layout.block_tokens == block_tokens
    assert layout.block_bytes * layout.per_slab <= SLAB < layout.block_bytes * (layout.per_slab + 1)


def test_groups_of_a_model_share_the_smallest() -> None:
    layouts = lay_out([GroupShape(64), GroupShape(SLAB // 2, window=7)], SLAB)
    assert [one.block_tokens for one in layouts] == [2, 2]
    assert [one.window for one in layouts] == [None, 7]


def test_a_position_larger_than_a_slab_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=f"{SLAB + 1} bytes .* holds {SLAB}"):
        lay_out([GroupShape(SLAB + 1)], SLAB)


def test_a_model_without_groups_has_no_layouts() -> None:
    assert lay_out([], SLAB) == ()


def test_first_live_block_of_a_window() -> None:
    layout = BlockLayout(4, 64, 8, window=6)
    # the row at 9 sees 4 ... 9; at 8 it still sees 3, which is in block 0
    assert [layout.first_live(p) for p in (0, 5, 8, 9, 12, 13)] == [0, 0, 0, 1, 1, 2]
    assert BlockLayout(4, 64, 8).first_live(1000) == 0


@pytest.mark.parametrize("window", [1, 5, 16, 40])
@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
def test_most_blocks_is_an_upper_bound_and_not_far_off(window: int, chunk: int) -> None:
    layout, total = BlockLayout(4, 64, 8, window=window), 200
    held = 0
    for context in range(0, total, chunk):
        end = min(total, context + chunk)
        held = max(held, layout.blocks_for(end) - layout.first_live(context))
    assert held <= layout.most_blocks(total, chunk) <= held + 3
