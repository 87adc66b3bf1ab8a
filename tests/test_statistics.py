import numpy as np
import pytest
from scipy import stats

from pilot.statistics import bootstrap_difference, bootstrap_mean, clustered_rate


def test_groups_of_one_give_the_wilson_interval():
    successes = np.arange(50) < 12
    rate = clustered_rate(successes, np.arange(50))
    wilson = stats.binomtest(12, 50).proportion_ci(method="wilson")
    assert rate.value == 12 / 50
    # The cluster variance divides by n - 1, which is worth a fiftieth of a trial.
    assert (rate.low, rate.high) == pytest.approx((wilson.low, wilson.high), abs=2e-3)


def test_trials_that_all_agree_within_their_group_count_once():
    groups = np.repeat(np.arange(40), 8)
    rate = clustered_rate(groups < 10, groups)
    alone = clustered_rate(np.arange(40) < 10, np.arange(40))
    assert (rate.value, rate.low, rate.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_no_success_still_leaves_an_interval_for_the_number_of_groups():
    rate = clustered_rate(np.zeros(160, bool), np.repeat(np.arange(20), 8))
    wilson = stats.binomtest(0, 20).proportion_ci(method="wilson")
    assert (rate.value, rate.low, rate.high) == pytest.approx((0, 0, wilson.high))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    covered = 0
    for _ in range(1000):
        chance = rng.beta(2, 4, size=60)  # mean 1/3, and trials of a group share theirs
        rate = clustered_rate(rng.random(300) < chance[groups], groups)
        covered += rate.low <= 1 / 3 <= rate.high
    assert 0.93 <= covered / 1000 <= 0.975


def test_a_rate_without_trials_is_refused():
    with pytest.raises(ValueError, match="at least one trial"):
        clustered_rate(np.zeros(0, bool), np.zeros(0))


def test_bootstrap_agrees_with_the_normal_approximation():
    values = np.repeat([-1, 0, 1], [20, 900, 80])
    estimate = bootstrap_mean(values, 20000, np.random.default_rng(0))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.value == pytest.approx(0.06)
    assert (estimate.low, estimate.high) == pytest.approx((0.06 - half, 0.06 + half), abs=2e-3)
    other = np.repeat([0, 1], [450, 50])
    difference = bootstrap_difference(values, other, 20000, np.random.default_rng(0))
    half = 1.96 * np.sqrt(values.var() / len(values) + other.var() / len(other))
    assert difference.value == pytest.approx(-0.04)
    assert (difference.low, difference.high) == pytest.approx((-0.04 - half, -0.04 + half), abs=2e-3)


def test_bootstrap_of_a_constant_has_no_width():
    estimate = bootstrap_mean(np.ones(5), 100, np.random.default_rng(0))
    assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)
