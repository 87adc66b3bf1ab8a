import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pilot.experiments.statistics import (
    Estimate,
    adjusted,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_test,
    clustered_rate,
    selection_frequency,
    sign_test,
    sign_tests,
)


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


def test_a_ratio_of_means_agrees_with_the_delta_method():
    rng = np.random.default_rng(0)
    denominator = rng.normal(5, 1, size=400)
    numerator = 0.3 * denominator + rng.normal(0, 1, size=400)
    ratio = bootstrap_ratio(numerator, denominator, 20000, rng)[()]
    assert ratio.value == pytest.approx(numerator.sum() / denominator.sum())
    half = 1.96 * (numerator - ratio.value * denominator).std() / np.sqrt(400) / denominator.mean()
    assert (ratio.low, ratio.high) == pytest.approx((ratio.value - half, ratio.value + half), abs=5e-4)


def test_a_ratio_with_denominator_one_is_a_mean():
    values = np.repeat([-1, 0, 1], [20, 900, 80])
    ratio = bootstrap_ratio(values, 1, 5000, np.random.default_rng(0))[()]
    mean = bootstrap_mean(values, 5000, np.random.default_rng(0))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((mean.value, mean.low, mean.high), abs=2e-3)
    wider = bootstrap_ratio(values, 1, 5000, np.random.default_rng(0), level=0.99)
    assert wider.low < ratio.low < ratio.high < wider.high


def test_all_rows_are_resampled_with_the_same_pairs():
    rows = np.random.default_rng(0).normal(size=(2, 3, 50))
    rows[1] = 2 * rows[0] + 1
    estimates = bootstrap_ratio(rows, np.ones((3, 50)), 500, np.random.default_rng(0))
    assert estimates.value == pytest.approx(rows.mean(-1))
    for values in (estimates.value, estimates.low, estimates.high):
        assert values[1] == pytest.approx(2 * values[0] + 1)
    assert estimates[1, 2] == Estimate(estimates.value[1, 2], estimates.low[1, 2], estimates.high[1, 2])


def test_a_ratio_that_every_pair_agrees_on_has_no_width():
    denominators = np.array([[1.0, 2, 4], [8.0, 1, 1]])
    estimates = bootstrap_ratio(3 * denominators, denominators, 100, np.random.default_rng(0))
    for values in (estimates.value, estimates.low, estimates.high):
        assert values == pytest.approx([3, 3])


def skewed_effects(simulations: int, pairs: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators, (simulations, P), whose ratio of means is 0.2: few pairs carry most of it."""
    denominators = 1 + rng.gamma(4, 2.5, size=(simulations, pairs))
    return denominators * rng.beta(0.5, 2, size=(simulations, pairs)), denominators


@pytest.mark.parametrize("pairs", [30, 128, 430])
def test_intervals_of_skewed_ratios_cover_the_truth_as_often_as_they_say(pairs):
    rng = np.random.default_rng(0)
    low, high = np.concatenate([ends(*skewed_effects(100, pairs, rng), rng) for _ in range(10)], axis=1)
    # A percentile interval covers 91 % at 30 pairs.
    assert 0.93 <= np.mean((low <= 0.2) & (high >= 0.2)) <= 0.97


def ends(numerators: np.ndarray, denominators: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    estimates = bootstrap_ratio(numerators, denominators, 1000, rng)
    return np.array([estimates.low, estimates.high])


def test_a_bootstrap_t_interval_resample_by_resample():
    rng = np.random.default_rng(0)
    (numerator,), (denominator,) = skewed_effects(1, 12, rng)
    resamples = np.random.default_rng(1).integers(12, size=(500, 12))
    t = []
    for drawn in resamples:
        ratio, error = ratio_and_error(numerator[drawn], denominator[drawn])
        t.append((ratio - numerator.sum() / denominator.sum()) / error)
    ratio, error = ratio_and_error(numerator, denominator)
    estimate = bootstrap_ratio(numerator, denominator, 500, np.random.default_rng(1))[()]
    assert estimate.value == pytest.approx(ratio)
    assert estimate.low == pytest.approx(ratio - error * np.quantile(t, 0.975))
    resampled = numerator[resamples].sum(1) / denominator[resamples].sum(1)
    assert estimate.high == pytest.approx(min(ratio - error * np.quantile(t, 0.025), resampled.max()))


def ratio_and_error(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, float]:
    ratio = numerator.sum() / denominator.sum()
    return ratio, np.sqrt(((numerator - ratio * denominator) ** 2).sum()) / denominator.sum()


def test_on_many_pairs_the_interval_agrees_with_scipys_bca():
    (numerator,), (denominator,) = skewed_effects(1, 400, np.random.default_rng(3))
    estimate = bootstrap_ratio(numerator, denominator, 20000, np.random.default_rng(0))[()]
    bca = stats.bootstrap(
        (numerator, denominator),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=20000,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = bca.high - bca.low
    assert (estimate.low, estimate.high) == pytest.approx((bca.low, bca.high), abs=0.05 * width)


def test_an_interval_stays_within_the_resamples_where_many_of_them_have_no_spread():
    # A third of the resamples leave out the one pair that differs, and their standard error is zero.
    estimate = bootstrap_ratio(np.repeat([0.0, 1.0], [29, 1]), 1, 2000, np.random.default_rng(0))[()]
    assert estimate.low == pytest.approx(0)
    assert 1 / 30 < estimate.high < 10 / 30


def test_a_single_test_at_5_percent_says_what_the_95_percent_interval_says():
    numerators, denominators = skewed_effects(400, 40, np.random.default_rng(0))
    for threshold in (0.12, 0.2):
        low = bootstrap_ratio(numerators, denominators, 999, np.random.default_rng(1)).low
        p = bootstrap_test(numerators, denominators, threshold, 999, np.random.default_rng(1))
        assert 0.02 < np.mean(low > threshold) < 0.98
        assert np.mean((low > threshold) == (p < 0.05)) > 0.98  # but for the interpolation of quantiles


def test_a_ratio_at_the_threshold_is_called_above_it_as_rarely_as_the_level_says():
    rng = np.random.default_rng(0)
    p = np.concatenate([bootstrap_test(*skewed_effects(100, 30, rng), 0.2, 999, rng) for _ in range(20)])
    assert 0.005 <= np.mean(p < 0.05) <= 0.035  # one of two sides


def test_the_least_p_value_and_those_of_ratios_without_spread_or_below():
    rows = np.stack([np.ones(20), np.zeros(20), np.linspace(-2, 0, 20), 5 + np.linspace(0, 1, 20)])
    p = bootstrap_test(rows, 1, 0.1, 999, np.random.default_rng(0))
    assert p.tolist() == [2 / 1000, 1, 1, 2 / 1000]


def test_resamples_are_drawn_a_few_at_a_time():
    # All at once, 10,000 resamples of 1,000 pairs take 80 MB for the counts alone.
    tracemalloc.start()
    try:
        bootstrap_ratio(np.ones((5, 1000)), 1, 10000, np.random.default_rng(0))
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_a_denominator_about_zero_is_refused():
    with pytest.raises(ValueError, match="too close to zero for a ratio"):
        bootstrap_ratio(np.ones(4), np.array([1.0, -1, 1, 1]), 1000, np.random.default_rng(0))
    with pytest.raises(ValueError, match="too close to zero for a ratio"):
        bootstrap_ratio(np.ones(4), np.zeros(4), 1000, np.random.default_rng(0))
    with pytest.raises(ValueError, match="too close to zero for a ratio"):
        bootstrap_test(np.ones(4), np.zeros(4), 0.1, 1000, np.random.default_rng(0))


def test_a_bootstrap_without_pairs_is_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        bootstrap_ratio(np.zeros((3, 0)), 1, 100, np.random.default_rng(0))


def test_the_sign_test_counts_pairs_that_differ():
    # a is above in 1 of 6 pairs and the last two tie: P(at most 1 of 6) = (1 + 6) / 64, on either side.
    a, b = np.array([1, 0, 0, 0, 0, 0, 3, 3]), np.array([0, 1, 2, 3, 4, 5, 3, 3])
    assert sign_test(a, b) == pytest.approx(14 / 64)
    assert sign_test(a, b, alternative="less") == pytest.approx(7 / 64)
    assert sign_test(a, b, alternative="greater") == pytest.approx(63 / 64)
    assert sign_test(b, a, alternative="greater") == pytest.approx(7 / 64)


def test_the_sign_test_of_booleans_is_mcnemars():
    # 2 pairs right only in a, 8 only in b, and the many that agree say nothing.
    a = np.repeat([True, False, True, False], [2, 8, 40, 50])
    b = np.repeat([False, True, True, False], [2, 8, 40, 50])
    assert sign_test(a, b) == pytest.approx(2 * (1 + 10 + 45) / 2**10)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_sign_tests_of_rows_are_scipys_binomial_tests(drawn):
    a, b = np.array(drawn).T
    above, below = int((a > b).sum()), int((a < b).sum())
    for alternative in ("two-sided", "greater", "less"):
        want = stats.binomtest(above, above + below, alternative=alternative).pvalue if above + below else 1
        assert sign_tests(np.array([a, b]), np.array([b, b]), alternative) == pytest.approx([want, 1])


def test_a_pair_without_a_control_is_a_tie():
    rows, control = np.array([[1.0, 2, 3, 4]]), np.array([[0.0, np.nan, 0, np.nan]])
    assert sign_tests(rows, control, "greater").tolist() == [1 / 4]


def test_pairs_that_all_tie_are_no_evidence():
    for alternative in ("two-sided", "less", "greater"):
        assert sign_test(np.ones(3), np.ones(3), alternative) == 1
    assert sign_test(np.zeros(0), np.zeros(0)) == 1


def test_a_sign_test_of_unpaired_values_is_refused():
    with pytest.raises(ValueError, match=r"needs pairs, not \(3,\) and \(3, 1\) values"):
        sign_test(np.zeros(3), np.zeros((3, 1)))


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_the_sign_test_rejects_a_true_null_no_more_often_than_it_says(alternative):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, size=(2, 1500, 50))
    rejected = np.mean([sign_test(one, other, alternative) < 0.05 for one, other in zip(a, b, strict=True)])
    assert 0.01 <= rejected <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1500)


def test_corrections_worked_out_by_hand():
    pvalues = np.array([0.04, 0.01, 0.03, 0.5])
    # Holm: 4 x 0.01, 3 x 0.03, 2 x 0.04 raised to the one before, 0.5.
    assert adjusted(pvalues, "holm") == pytest.approx([0.09, 0.04, 0.09, 0.5])
    # Benjamini-Hochberg: 4/1 x 0.01, 4/2 x 0.03 lowered to the one after, 4/3 x 0.04, 0.5.
    expected = [4 / 3 * 0.04, 0.04, 4 / 3 * 0.04, 0.5]
    assert adjusted(pvalues, "benjamini-hochberg") == pytest.approx(expected)


def test_corrected_pvalues_keep_their_names():
    assert adjusted({"L0H1": 0.4, "L2H2": 0.01}) == {"L0H1": 0.4, "L2H2": 0.02}
    assert adjusted({}) == {}


pvalue_lists = st.lists(st.floats(0, 1), min_size=1, max_size=20).map(np.array)


@given(pvalue_lists)
def test_corrections_keep_the_order_and_holm_lies_between_the_others_and_bonferroni(pvalues):
    bonferroni = np.minimum(pvalues * len(pvalues), 1)
    holm, benjamini_hochberg = adjusted(pvalues, "holm"), adjusted(pvalues, "benjamini-hochberg")
    assert (pvalues <= benjamini_hochberg + 1e-12).all()
    assert (benjamini_hochberg <= holm + 1e-12).all()
    assert (holm <= bonferroni + 1e-12).all()
    order = np.argsort(pvalues)
    for corrected in (holm, benjamini_hochberg):
        assert (np.diff(corrected[order]) >= 0).all()


def test_corrections_bound_the_false_discoveries_among_true_effects():
    rng = np.random.default_rng(0)
    n_true, n_null, trials = 5, 15, 3000
    pvalues = rng.random((trials, n_true + n_null))
    pvalues[:, :n_true] *= 1e-4
    slack = 2 * np.sqrt(0.05 * 0.95 / trials)
    assert np.mean((pvalues[:, n_true:] < 0.05).any(1)) > 0.5  # what goes uncorrected

    rejected = np.array([adjusted(p, "holm") for p in pvalues]) < 0.05
    assert 0.03 <= np.mean(rejected[:, n_true:].any(1)) <= 0.05 + slack
    assert rejected[:, :n_true].all()

    rejected = np.array([adjusted(p, "benjamini-hochberg") for p in pvalues]) < 0.05
    false_share = rejected[:, n_true:].sum(1) / rejected.sum(1)
    assert 0.03 <= false_share.mean() <= 0.05 + slack


def test_an_estimate_is_written_with_its_interval():
    estimate = Estimate(0.4321, 0.3, 0.5)
    assert f"{estimate:.2f}" == "0.43 [0.30, 0.50]"
    assert str(estimate) == "+0.432 [+0.300, +0.500]"


def test_what_cannot_be_corrected_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        adjusted(np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match="unknown correction 'bonferroni'"):
        adjusted(np.array([0.5]), "bonferroni")


def test_a_selection_is_as_stable_as_its_pairs():
    # Of two pairs, a quarter of the resamples draw only the second, where alone head 1 is ahead.
    effects = np.array([[1, 0], [0, 1], [-1, -1]])
    frequency = selection_frequency(effects, 1, 20000, np.random.default_rng(0))
    assert frequency == pytest.approx([3 / 4, 1 / 4, 0], abs=0.02)
    frequency = selection_frequency(effects, 2, 1000, np.random.default_rng(0))
    assert frequency.tolist() == [1, 1, 0]


def test_selection_frequencies_add_up_to_the_number_selected():
    effects = np.random.default_rng(0).normal(size=(16, 30))
    frequency = selection_frequency(effects, 5, 300, np.random.default_rng(0))
    assert frequency.sum() == pytest.approx(5)
    assert set(np.flatnonzero(frequency > 0.5)) >= set(np.argsort(-effects.mean(1))[:3])


@pytest.mark.parametrize("k", [0, 4])
def test_a_selection_of_more_heads_than_there_are_or_of_none_is_refused(k):
    with pytest.raises(ValueError, match=f"cannot select {k} of 3 heads"):
        selection_frequency(np.zeros((3, 5)), k, 10, np.random.default_rng(0))
