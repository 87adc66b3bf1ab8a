import numpy as np
import pytest
from scipy import stats

from pilot.experiments.attribution.agreement import agreement
from pilot.experiments.statistics import ratio_of_means

GAP = np.array([2.0, 4.0, 2.0])


def scored(found, exact, **options) -> dict:
    settings = {"top_k": 2, "min_effect": 0.1, "resamples": 200, "seed": 0} | options
    as_change = (np.array(side)[:, None] * GAP for side in (found, exact))
    return agreement(*as_change, GAP, **settings)


def test_scores_worked_out_by_hand():
    exact, found = [0.6, -0.3, 0.2, 0.05], [0.5, 0.1, 0.2, -0.4]
    scores = {name: estimate["value"] for name, estimate in scored(found, exact).items()}
    assert scores == pytest.approx(
        {
            "error": np.sqrt((0.1**2 + 0.4**2 + 0 + 0.45**2) / 4),
            "worst": 0.45,
            "pearson": np.corrcoef(found, exact)[0, 1],
            "spearman": stats.spearmanr(found, exact).statistic,
            "recall": 0.5,  # heads 0 and 1 by size, of which 0 and 3 are chosen
            "sign_errors": 1,  # head 1; head 3 is too small to count
        }
    )


def test_the_exact_result_has_no_error():
    exact = [0.6, -0.3, 0.2, 0.05]
    for name, estimate in scored(exact, exact).items():
        wanted = 1.0 if name in ("pearson", "spearman", "recall") else 0.0
        assert estimate == pytest.approx({"value": wanted, "low": wanted, "high": wanted})


def test_a_method_that_tells_nothing_apart_does_not_correlate():
    scores = scored([0.125, 0.125, 0.125], [0.3, 0.2, 0.1])
    assert scores["pearson"]["value"] == scores["spearman"]["value"] == 0


def test_intervals_are_over_the_pairs():
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((6, 40)) * 0.1 + np.linspace(0.5, 0, 6)[:, None]
    found = exact + 0.3 * rng.standard_normal((6, 40))
    score = agreement(found, exact, np.ones(40), 2, 0.1, 500, 0)["pearson"]
    assert score["low"] < score["value"] < score["high"]
    assert score["high"] - score["low"] < 0.3
    assert agreement(found, exact, np.ones(40), 2, 0.1, 500, 0)["pearson"] == score


def test_recovery_is_a_ratio_of_means():
    assert ratio_of_means(np.array([[1.0, 2.0, 3.0]]), GAP) == pytest.approx([6 / 8])
