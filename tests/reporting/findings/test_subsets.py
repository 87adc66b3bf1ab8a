from dataclasses import replace

import pytest

from pilot.reporting.findings.subsets import best_sets, interactions, shapley

FINDINGS = [shapley, interactions, best_sets]


def test_the_largest_shapley_values_that_make_up_half(measured):
    finding = shapley(measured)
    assert "by denoising L0H1 and L1H1; by noising L0H1 and L1H1." in finding.text
    assert list(finding.plot.panels[""]["noising"]) == ["L0H1", "L1H1", "L0H0", "L1H0"]  # largest first


def test_interactions_name_pairs_whose_intervals_exclude_zero(measured):
    values = {("L0H0", "L1H0"): 0.2, ("L0H1", "L1H1"): -0.3}
    rows = []
    for row in measured.interactions:
        value = values.get((row["head_a"], row["head_b"]), 0.0)
        rows.append(row | {"value": str(value), "low": str(value - 0.1), "high": str(value + 0.1)})
    text = interactions(replace(measured, interactions=rows)).text
    assert "Strongest positive: by denoising L0H0 and L1H0 (+0.200)" in text
    assert "Strongest negative: by denoising L0H1 and L1H1 (-0.300, p 1)" in text


def test_without_a_clear_interaction_no_pair_is_named(measured):
    text = interactions(measured).text  # all are 0, with an interval around it
    assert "Strongest positive: by denoising none and by noising none." in text
    assert "Strongest negative: by denoising none and by noising none." in text


def test_how_many_heads_recover_half(measured):
    finding = best_sets(measured)
    assert "by denoising 2 (L0H1+L1H1, 0.85)" in finding.text
    rows = [row | {"value": "0.1"} for row in measured.best_sets]
    assert "by denoising no set does" in best_sets(replace(measured, best_sets=rows)).text


def test_how_much_choosing_flatters_the_best_sets(measured):
    assert "chosen on they recover up to 0.020 more." in best_sets(measured).text
    rows = [row | {"optimism": "-0.01"} for row in measured.best_sets]
    assert "chosen on they recover" not in best_sets(replace(measured, best_sets=rows)).text


@pytest.mark.parametrize("finding", FINDINGS)
def test_what_is_missing_is_said(measured, finding):
    lacking = replace(measured, interactions=[], best_sets=[])
    del lacking.counterfactual["shapley"]
    assert finding(lacking).table is None
    assert "counterfactual.exhaustive is off" in finding(lacking).text
    assert "run dvc repro counterfactual" in finding(replace(lacking, counterfactual={})).text
