"""Ramps and annealing thresholds against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.functional.schedules import linear_ramp, tsa_threshold


@pytest.mark.parametrize(
    ("step", "value", "times_75"),
    [
        (0, 0, 0),
        (1, 0.000061, 0.004578),
        (100, 0.006104, 0.457764),
        (4096, 0.25, 18.75),
        (8192, 0.5, 37.5),
        (16383, 0.999939, 74.995422),
        (16384, 1, 75),
        (20000, 1, 75),
    ],
)
def test_linear_ramp(step: int, value: float, times_75: float) -> None:
    assert linear_ramp(step, 16384) == pytest.approx(value, abs=5e-7)
    assert 75 * linear_ramp(step, 16384) == pytest.approx(times_75, abs=5e-7)


@pytest.mark.parametrize(
    ("step", "value"), [(104858, 0.250001), (209715, 0.5), (209716, 0.500002), (419430, 0.999999), (419431, 1)]
)
def test_linear_ramp_over_a_fraction_of_the_run(step: int, value: float) -> None:
    assert linear_ramp(step, 0.4 * 2**20) == pytest.approx(value, abs=6e-7)


def test_no_ramp_is_on_from_the_start() -> None:
    assert linear_ramp(0, 0) == 1


TABLE = {
    (10, "linear"): [0.1, 0.325, 0.55, 0.775, 1.0],
    (10, "exp"): [0.106064, 0.121166, 0.173876, 0.357854, 1.0],
    (10, "log"): [0.1, 0.742146, 0.926124, 0.978834, 0.993936],
    (6, "linear"): [0.166667, 0.375, 0.583333, 0.791667, 1.0],
    (6, "exp"): [0.172282, 0.186265, 0.235071, 0.405421, 1.0],
    (6, "log"): [0.166667, 0.761246, 0.931596, 0.980402, 0.994385],
}


@pytest.mark.parametrize(("classes", "kind"), TABLE)
def test_tsa_threshold(classes: int, kind: str) -> None:
    values = [tsa_threshold(kind, step, 400, classes) for step in (0, 100, 200, 300, 400)]  # type: ignore[arg-type]
    assert values == pytest.approx(TABLE[classes, kind], abs=5e-7)


@given(st.integers(0, 999), st.integers(2, 1000))
def test_tsa_thresholds_grow(step: int, classes: int) -> None:
    for kind in ("linear", "log", "exp"):
        now, later = (tsa_threshold(kind, s, 1000, classes) for s in (step, step + 1))
        assert 1 / classes <= now < later <= 1 + 1e-12


@given(st.integers(10, 990), st.integers(2, 1000))
def test_log_anneals_fastest_and_exp_slowest(step: int, classes: int) -> None:
    log, linear, exp = (tsa_threshold(kind, step, 1000, classes) for kind in ("log", "linear", "exp"))
    assert log > linear > exp


def test_no_annealing_keeps_the_threshold_at_one() -> None:
    assert tsa_threshold("none", 0, 100, 10) == tsa_threshold("none", 100, 100, 10) == 1
