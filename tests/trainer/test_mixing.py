"""The order of a stream: every sample once an epoch of its block, found again at any position, siblings kept apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.mixing import Mixing

COUNTS = st.lists(st.integers(1, 7), min_size=1, max_size=6).map(np.array)


def samples(mixing: Mixing, tick: int) -> np.ndarray:
    """int64 [n, 4]: entry, block, row and copy."""
    entry, block, sample, _ = mixing.mix(tick, 1)
    return np.stack([entry, block, *np.divmod(sample, mixing.copies)], axis=1)


def ticks(mixing: Mixing, first: int, last: int) -> list[np.ndarray]:
    return [samples(mixing, tick) for tick in range(first, last)]


@settings(deadline=None)
@given(COUNTS, st.integers(1, 9), st.integers(1, 6), st.integers(0, 5))
def test_every_block_hands_out_each_copy_of_each_row_once(counts, copies, width, seed):
    width = min(width, len(counts))
    mixing = Mixing(counts, copies, width, seed)
    span = -(-copies // width) * width
    entries = 3 * len(counts)
    seen = np.concatenate(ticks(mixing, 0, entries * -(-copies // width) + span))
    for entry in range(entries):
        mine = seen[seen[:, 0] == entry]
        block = mixing.block(entry)
        assert set(mine[:, 1]) == {block}
        assert sorted(map(tuple, mine[:, 2:].tolist())) == [(r, c) for r in range(counts[block]) for c in range(copies)]
    for epoch in range(3):
        blocks = [mixing.block(entry) for entry in range(epoch * len(counts), (epoch + 1) * len(counts))]
        assert sorted(blocks) == list(range(len(counts))), "an epoch has every block once"


@settings(deadline=None)
@given(COUNTS, st.integers(1, 9), st.integers(1, 6), st.integers(0, 5))
def test_no_tick_holds_two_copies_of_one_row_and_none_more_than_the_width(counts, copies, width, seed):
    width = min(width, len(counts))
    mixing = Mixing(counts, copies, width, seed)
    for tick in range(30):
        rows = [tuple(row) for row in samples(mixing, tick)[:, :3].tolist()]
        assert len(set(rows)) == len(rows)
        open_now = mixing.open(tick)
        assert len(open_now) <= width
        assert {entry for entry, *_ in rows} <= set(open_now)


@settings(deadline=None)
@given(COUNTS, st.integers(1, 9), st.integers(1, 6), st.integers(0, 40))
def test_any_position_is_found_without_what_came_before(counts, copies, width, tick):
    width = min(width, len(counts))
    sizes = [len(tick) for tick in ticks(Mixing(counts, copies, width, 1), 0, tick + 1)]
    fresh = Mixing(counts, copies, width, 1)
    assert fresh.through(tick) == sum(sizes)
    for position in {sum(sizes[:-1]), sum(sizes) - 1} if sizes[-1] else ():
        assert fresh.find(position) == tick
    np.testing.assert_array_equal(
        ticks(fresh, tick, tick + 1), ticks(Mixing(counts, copies, width, 1), 0, tick + 1)[-1:]
    )


@settings(deadline=None)
@given(COUNTS, st.integers(1, 9), st.integers(1, 6), st.integers(0, 40))
def test_ticks_mixed_together_are_those_mixed_one_by_one(counts, copies, width, tick):
    width = min(width, len(counts))
    mixing, single = Mixing(counts, copies, width, 1), Mixing(counts, copies, width, 1)
    entry, block, sample, ends = mixing.mix(tick, mixing.together)
    each = ticks(single, tick, tick + mixing.together)
    np.testing.assert_array_equal(
        np.stack([entry, block, sample // copies, sample % copies], axis=1), np.concatenate(each)
    )
    assert ends.tolist() == np.cumsum([len(tick) for tick in each]).tolist()


def test_seeds_epochs_and_blocks_have_orders_of_their_own():
    counts = np.full(20, 8)
    one, two = Mixing(counts, 5, 4, 1), Mixing(counts, 5, 4, 2)
    assert not np.array_equal(ticks(one, 30, 31), ticks(two, 30, 31))
    epochs = [[one.block(entry) for entry in range(20 * epoch, 20 * epoch + 20)] for epoch in range(4)]
    assert all(a != b for a, b in pairwise(epochs))


def test_the_quality_of_the_mix_is_what_it_says():
    """CIFAR-10 × 50 within 512 MiB: 40 blocks of 64 images. In the long run no two copies of an image share a batch of
    64, but for the 4 % of batches across two ticks; 2,560 images are at hand; copies of an image come evenly."""
    mixing = Mixing(np.full(782, 64), 50, 40, 1)
    whole = ticks(mixing, 500, 700)
    images = [tick[:, 0] * 64 + tick[:, 2] for tick in whole]
    assert {len(tick) for tick in whole} == {1600}
    assert len(np.unique(np.concatenate(images[:2]))) == pytest.approx(2560, rel=0.02)
    stream = np.concatenate(images)
    batches = stream[: len(stream) // 64 * 64].reshape(-1, 64)
    pairs = sum((n * (n - 1) // 2).sum() for n in (np.unique(b, return_counts=True)[1] for b in batches)) / len(batches)
    assert pairs < 0.04, "a uniform draw from all of 50,000 × 50 has 0.04"
    of_one = np.flatnonzero(stream == stream[len(stream) // 2])
    assert np.diff(of_one).min() > 64
