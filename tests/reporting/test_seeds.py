"""Runs of several training seeds are compared by what does not depend on which head does it."""

from support.seed_results import BEST_SETS, TRAIN, counterfactual

from pilot.reporting.seeds import comparable, is_stale

CURRENT = {
    "exact_match.flat": 0.97,
    "exact_match.paren": 0.95,
    "top_k_recovery.regroup.denoising": 0.5,
    "top_k_recovery.regroup.noising": 0.5,
    "recovery_of_4.best": 0.8,
    "recovery_of_4.average": 0.4,
    "shapley.denoising.L0": 0.75,
    "shapley.denoising.L1": 0.25,
    "largest_shapley.denoising": 0.5,
    "heads.sufficient": 1,
    "heads.necessary": 2,
}


def test_what_is_compared_does_not_depend_on_which_head_it_is():
    assert comparable(TRAIN, counterfactual(0.5), BEST_SETS) == CURRENT


def test_a_comparison_is_stale_when_the_present_results_are_not_in_it():
    other = {**CURRENT, "exact_match.flat": 0.1}
    assert not is_stale({"seed 0": other, "seed 1": CURRENT}, CURRENT)
    assert not is_stale({"seed 0": {**CURRENT, "exact_match.flat": 0.970001}}, CURRENT), "files keep six digits"
    assert is_stale({"seed 0": other}, CURRENT)
    assert is_stale({"seed 0": CURRENT}, {**CURRENT, "heads.sufficient": 2})
    assert is_stale({"seed 0": CURRENT}, {**CURRENT, "heads.redundant": 2})
    assert is_stale({}, CURRENT)
