import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pilot.experiments.planted.circuits import KINDS, draw_pairs, plant, random_circuit
from pilot.experiments.planted.scores import METHODS, SIZES, auroc, false_positives, head_pvalues, score
from stages import planted

PLACEMENTS = 13  # of each kind, 52 in all

# What theory says that a method cannot see.
BLIND = {("and", "denoising"), ("or", "noising")}


@pytest.fixture(scope="module")
def scores():
    """For each kind the scores of random circuits, of all sizes in turn."""
    rng = np.random.default_rng(0)
    return {
        kind: [score(random_circuit(kind, *SIZES[i % len(SIZES)], rng), rng) for i in range(PLACEMENTS)]
        for kind in KINDS
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_planted_heads_are_found_by_every_method_but_the_one_that_is_blind_to_them(scores, kind, method):
    found = [by_method[method] for by_method in scores[kind]]
    assert max(score.others for score in found) < 0.05
    planted = np.array([score.planted for score in found])
    if (kind, method.removesuffix("_by_position")) in BLIND:
        assert np.abs(planted).max() < 0.05
        assert np.mean([score.auroc for score in found]) < 0.75
        assert min(score.auroc for score in found) < 0.5
    else:
        assert [score.auroc for score in found] == [1.0] * PLACEMENTS
        shared = method == "shapley" and kind != "single"  # by the two heads
        np.testing.assert_allclose(planted, 0.5 if shared else 1, atol=0.05)


def test_where_no_head_matters_none_is_found_more_often_than_the_level_says():
    simulations = 200
    rates = false_positives(simulations, np.random.default_rng(0), n_pairs=30)
    for rate in rates.values():
        assert rate.low <= rate.value <= rate.high
    any_head = round(rates["any_head"].value * simulations)
    assert stats.binomtest(any_head, simulations, 0.05, alternative="greater").pvalue > 0.05
    # Of 30 pairs at least 21 must agree, which fair coins do with probability 0.043.
    assert rates["each_head"].low < 0.043 < rates["each_head"].high


@pytest.mark.parametrize(("kind", "found"), [("single", True), ("or", True), ("position", True), ("and", False)])
def test_the_test_of_the_nulls_finds_heads_that_matter(kind, found):
    rng = np.random.default_rng(1)
    circuit = random_circuit(kind, 3, 2, rng)
    pvalues = head_pvalues(plant(circuit, rng), draw_pairs(circuit, 30, rng))
    for patch in circuit.heads:
        assert (pvalues[2 * patch.layer + patch.head] == 2 * 0.5**30) == found


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2))
def test_auroc_counts_pairs_in_the_right_order(drawn):
    above, below = ([value for value, positive in drawn if positive is side] for side in (True, False))
    values, positive = (np.array(column) for column in zip(*drawn, strict=True))
    if above and below:
        right = sum((a > b) + (a == b) / 2 for a in above for b in below)
        assert auroc(values, positive) == pytest.approx(right / (len(above) * len(below)))
    else:
        with pytest.raises(ValueError, match="an AUROC needs a positive and a negative"):
            auroc(values, positive)


def test_the_stage_prints_and_writes_the_scores(tmp_path, capsys):
    output = tmp_path / "planted.json"
    assert planted.main(["--placements", "2", "--nulls", "3", "--seed", "1", "--output", str(output)]) == 0
    written = json.loads(output.read_text())
    assert set(written["found"]) == set(KINDS)
    for kind, by_method in written["found"].items():
        assert tuple(by_method) == METHODS
        assert by_method["shapley"]["auroc"] == {"mean": 1.0, "least": 1.0}, kind
    assert set(written["false_positives"]["any_head"]) == {"value", "low", "high"}
    printed = capsys.readouterr().out
    assert "over 2 circuits of each kind" in printed
    assert sum(line.startswith(KINDS) for line in printed.splitlines()) == len(KINDS) * len(METHODS)

    first = output.read_bytes()
    planted.main(["--placements", "2", "--nulls", "3", "--seed", "1", "--output", str(output)])
    assert output.read_bytes() == first


@pytest.mark.parametrize(("option", "value", "least"), [("placements", 0, 1), ("nulls", 0, 1), ("seed", -1, 0)])
def test_the_stage_refuses_numbers_that_are_too_small(option, value, least, tmp_path, capsys):
    assert planted.main([f"--{option}", str(value), "--output", str(tmp_path / "planted.json")]) == 2
    assert capsys.readouterr().err == f"error: --{option} {value}: must be at least {least}\n"
    assert not (tmp_path / "planted.json").exists()
