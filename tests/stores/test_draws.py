"""Counter-based draws against the published Philox vectors, and the properties everything else relies on."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores import draws
from stores.draws import Generators, below, generator, key, order, philox, shuffled, unit


@pytest.mark.parametrize(
    ("key_", "counters", "expected"),
    [  # known answers of the Random123 distribution, philox4x32 with 10 rounds
        (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**64 - 1, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x299F31D0A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(key_, counters, expected):
    assert philox(key_, *counters).ravel().tolist() == list(expected)


def test_a_draw_does_not_depend_on_its_neighbours():
    rows, copies = np.arange(20)[:, None], np.arange(8)[None]
    table = philox(key(3, "cutout"), copies, rows)
    assert table.shape == (4, 20, 8)
    assert (philox(key(3, "cutout"), copies[:, :5], rows[7:9]) == table[:, 7:9, :5]).all()
    assert (philox(key(4, "cutout"), copies, rows) != table).mean() > 0.99
    assert (philox(key(3, "erase"), copies, rows) != table).mean() > 0.99


def test_below_and_unit_are_uniform():
    words = philox(key(0, "test"), np.arange(60_000))[0]
    counts = np.bincount(below(words, 6), minlength=6)
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(10_000)
    assert abs(unit(words).mean() - 0.5) < 0.01
    assert unit(words).max() < 1
    assert below(np.array([2**32 - 1], np.uint64), 7).tolist() == [6]


@given(n=st.integers(1, 400), epoch=st.integers(0, 2**33), seed=st.integers(0, 2**31))
def test_shuffled_is_a_permutation_in_every_epoch(n, epoch, seed):
    values = shuffled(epoch * n + np.arange(n), n, seed, "pool")
    assert sorted(values.tolist()) == list(range(n))
    at = n // 2
    assert shuffled(np.array([epoch * n + at]), n, seed, "pool")[0] == values[at]


def test_shuffled_visits_all_orders_evenly():
    orders = Counter(tuple(shuffled(np.arange(4), 4, seed, "pool").tolist()) for seed in range(4800))
    assert set(orders) == set(itertools.permutations(range(4)))
    chi2 = sum((n - 200) ** 2 / 200 for n in orders.values())
    assert chi2 < 60  # 23 degrees of freedom: 99.99 % lie below 55


def test_epochs_differ():
    a, b = shuffled(np.arange(1000), 1000, 1, "pool"), shuffled(1000 + np.arange(1000), 1000, 1, "pool")
    assert (a != b).mean() > 0.98


def test_order_is_a_permutation_and_keyed():
    assert sorted(order(1, "order", 1000).tolist()) == list(range(1000))
    assert (order(1, "order", 1000) != order(2, "order", 1000)).any()


def test_generators_of_two_steps_never_meet():
    draws = [generator(1, "mixup", step).random(4).tolist() for step in (0, 1, 2, 0)]
    assert draws[0] == draws[3]
    assert len({value for four in draws[:3] for value in four}) == 12


@given(n=st.integers(1, 5000), start=st.integers(0, 2**33), seed=st.integers(0, 2**31))
def test_shuffled_is_the_same_with_and_without_tables(n, start, seed):
    positions = start + np.arange(300)
    tabled = shuffled(positions, n, seed, "pool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "_TABLE", 0)
        np.testing.assert_array_equal(shuffled(positions, n, seed, "pool"), tabled)


def test_the_endless_order_is_what_it_was_when_runs_began():
    """Recorded before its rounds were looked up in tables: a resumed run goes on in the order that it began with."""
    assert shuffled(np.arange(6), 500_000, 1, "a").tolist() == [23455, 391956, 210387, 444602, 496720, 48475]
    assert shuffled(np.arange(499_998, 500_002), 500_000, 1, "a").tolist() == [196144, 23951, 314750, 318894]


def test_a_generator_that_is_set_back_is_a_new_one():
    made = Generators(3, "x")
    for counter in (8, 0, 7, 2**40, 7):
        mine, other = made[counter], generator(3, "x", counter)
        assert mine.permutation(101).tolist() == other.permutation(101).tolist()
        assert mine.random(3, np.float32).tolist() == other.random(3, np.float32).tolist()
