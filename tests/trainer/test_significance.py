"""Intervals against scipy's and closed forms; verdicts and bold numbers follow from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trainer.compare.plan import uses_unlabeled
from trainer.evaluation.outcomes import Outcomes
from trainer.methods import FITTED, METHODS
from trainer.report import comparison, significance, verdict
from trainer.report.records import Group, Record, by_data


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 29, 100])
def test_quantiles_are_those_of_student(freedom: int) -> None:
    assert significance.t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_the_interval_of_a_mean_is_scipys(values: list[float]) -> None:
    reach = significance.t_reach(values)
    spread = np.std(values, ddof=1) / math.sqrt(len(values))
    assert reach == pytest.approx(stats.t.ppf(0.975, len(values) - 1) * spread, rel=1e-6, abs=1e-9)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None)
def test_the_interval_of_an_error_is_wilsons(counts: tuple[int, int]) -> None:
    found = stats.binomtest(*counts).proportion_ci(method="wilson")
    assert significance.wilson(*counts) == pytest.approx((found.low, found.high), abs=1e-9)


@pytest.mark.parametrize(("better", "worse", "images"), [(40, 20, 1000), (5, 0, 200), (300, 280, 2000)])
def test_the_bootstrap_is_that_of_the_images(better: int, worse: int, images: int) -> None:
    """Its normal limit is a closed form; scipy's, which draws image by image, gives the same percentiles."""
    each = np.zeros(images)
    each[:better], each[better : better + worse] = 1, -1
    low, high = significance.bootstrap(each)
    mean, deviation = each.mean(), each.std() / math.sqrt(images)
    assert (low, high) == pytest.approx(
        (mean - 1.96 * deviation, mean + 1.96 * deviation), abs=1.2 / images + 0.04 * deviation
    )
    given = stats.bootstrap((each,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(1))
    limits = given.confidence_interval
    assert (low, high) == pytest.approx((limits.low, limits.high), abs=0.2 * deviation)
    assert significance.bootstrap(each) == (low, high), "the same for the same images"


def test_it_covers_what_it_says() -> None:
    """Of many test sets, the intervals of 95 % hold the truth; .95 ± three standard errors."""
    rng, tries, hits = np.random.default_rng(3), 300, 0
    for _ in range(tries):
        low, high = significance.bootstrap(rng.choice([1, 0, -1], 400, p=[0.12, 0.8, 0.08]))
        hits += low <= 0.04 <= high
    assert hits / tries == pytest.approx(0.95, abs=3 * math.sqrt(0.05 * 0.95 / tries))


# --- runs -----------------------------------------------------------------------------------------------------------


def record(method: str, seed: int, wrong: int, images: int = 200, shift: int = 0, **more: Any) -> Record:
    """A run that is wrong about so many of its test images, from the one numbered `shift` on."""
    guesses = np.zeros(images, np.int32)
    guesses[(shift + np.arange(wrong)) % images] = 1
    labels, sure = np.zeros(images, np.int32), np.ones(images, np.float32)
    pool = (np.empty(0, np.int32),) * 3 + (np.empty(0, np.float32),) * 2
    error = 100 * wrong / images
    store = {
        "name": "tiny_20",
        "path": "stores/tiny_20",
        "fingerprint": "f",
        "split_seed": 1,
        "class_names": ["a", "b"],
    }
    store |= {"dataset_fingerprint": "d", "protocol": "labels", "counts": {}, "gamma": 0} | more
    run = {"method": method, "seed": seed, "model": "wrn-10-1", "steps": 6, "batch": 4}
    result = {"error_last": error, "error_median20": error, "median_of": 2, "seconds": 1.0}
    result |= {"confusion": [[images - wrong, wrong], [0, 0]], "per_class_error": {"a": error, "b": None}}
    said = Outcomes(np.arange(images, dtype=np.int32), labels, guesses, sure, *pool)
    return Record(Path(f"{method}_{seed}"), {"run": run, "settings": {}, "store": store}, result, [], [], said)


def group(method: str, *wrong: int, **more: Any) -> Group:
    return Group([record(method, seed + 1, one, **more) for seed, one in enumerate(wrong)])


def told(*groups: Group) -> str:
    return verdict.of_groups(groups, [one.first.run["method"] for one in groups])


def test_one_run_each_is_compared_image_by_image() -> None:
    said = told(group("supervised", 60), group("realmix", 20))
    assert said.startswith("The unlabelled images help: realmix is wrong about 10.0 % of the test images, supervised")
    low, high = significance.bootstrap(np.repeat([100.0, 0.0], [40, 160]))
    assert f"better by 20.0 points, 95 % interval {low:.1f} to {high:.1f} over 200 test images of one run each" in said
    # 20 points of the same images, but with as many errors on others: no more than chance
    assert told(group("supervised", 60), group("realmix", 52, shift=100)).startswith(
        "The unlabelled images make no clear"
    )
    assert told(group("supervised", 20), group("realmix", 60)).startswith("The unlabelled images do not help: even")


def test_over_seeds_the_wider_interval_counts() -> None:
    said = told(group("supervised", 60, 70, 40), group("realmix", 20, 26, 38))
    reach = significance.t_reach([20.0, 22.0, 1.0])
    mean = 43 / 3
    assert "no clear difference: " in said
    assert f"14.3 points, 95 % interval −{reach - mean:.1f} to {mean + reach:.1f} over 3 seeds." in said
    same = significance.difference(group("supervised", 60, 60, 60), group("realmix", 20, 20, 20))
    assert same is not None
    assert same.images == 200, "three times the same run says nothing about chance"
    assert same.low < same.mean < same.high


def test_what_cannot_be_compared_is_said() -> None:
    assert "learns from the labels alone" in told(group("realmix", 20))
    assert "`realmix-train --store stores/tiny_20 --method supervised`" in told(
        group("realmix", 20), group("mixmatch", 9)
    )
    assert "is not known" in told(group("supervised", 20))
    other_images = record("realmix", 1, 20)
    other_images.outcomes.test_rows[0] = 999  # type: ignore[union-attr]
    assert "may be chance" in told(group("supervised", 60), Group([other_images]))
    assert told(Group([Record(Path("x"), record("realmix", 1, 2).config, None, [], [])])) == ""
    guessing = record("realmix", 1, 200)
    assert "no better than guessing" in verdict.of_run(guessing)


def test_labels_alone_are_the_methods_without_unlabelled_images() -> None:
    assert {name for name in METHODS | FITTED if not uses_unlabeled(name)} == {*verdict.LABELS_ALONE}


def test_only_what_is_clearly_better_is_bold() -> None:
    def bold(*groups: Group) -> bool:
        return "<b>" in str(comparison.scores(groups, [one.first.run["method"] for one in groups]))

    assert bold(group("supervised", 60), group("realmix", 20))
    assert not bold(group("supervised", 60), group("realmix", 56, shift=30))
    assert not bold(group("supervised", 60), group("realmix", 20), group("mixmatch", 22, shift=50))
    assert not bold(group("realmix", 20))


def test_runs_on_different_data_are_not_ranked() -> None:
    groups = [group("supervised", 60), group("realmix", 20, dataset_fingerprint="other", name="more_20")]
    assert [[one.first.run["method"] for one in some] for some in by_data(groups)] == [["supervised"], ["realmix"]]
    page = "".join(map(str, comparison.compare(groups)))
    assert "On tiny_20" in page
    assert "On more_20" in page
    assert "The unlabelled images help" not in page
    assert "<b>10.00" not in page


def test_the_median_is_of_as_many_evaluations_as_there_were() -> None:
    groups = [group("supervised", 60), group("realmix", 20)]
    assert comparison.median_said(groups) == "the median is that of the last 2 evaluations"
    groups[0].first.result["median_of"] = 20  # type: ignore[index]
    assert comparison.median_said(groups) == "the median is that of the last 2–20 evaluations"
    groups[1].first.result["median_of"] = 20  # type: ignore[index]
    assert comparison.median_said(groups) == "the median is that of the last 20 evaluations"
