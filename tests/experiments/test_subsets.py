import numpy as np
import pytest

from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import token_pairs
from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.experiments.statistics import Estimates
from pilot.experiments.subsets import SubsetEffects, best_sets, measure_subsets, redundant
from pilot.interventions import HeadPatch
from pilot.models.checkpoint import load_model
from pilot.sweep import SweepEngine

HEADS = (HeadPatch(0, 0), HeadPatch(0, 1), HeadPatch(1, 0))
A, B, C = 1, 2, 4


def effects_of(worth: dict[int, float], pairs: int = 8) -> SubsetEffects:
    """Three heads; a set is worth what its mask is said to be, on every pair, in units of a gap of 2."""
    change = np.array([[2 * worth.get(mask, 0.0)] * pairs for mask in range(8)], dtype=np.float32)
    return SubsetEffects(HEADS, change, np.full(pairs, 2.0))


OR = effects_of({mask: float(bool(mask & (A | B))) for mask in range(8)})
AND = effects_of({mask: float(mask & (A | B) == A | B) for mask in range(8)})
RNG = np.random.default_rng(0)


def test_values_are_shares_of_the_gap():
    np.testing.assert_allclose(OR.shapley(200, RNG).value, [0.5, 0.5, 0], atol=1e-12)
    np.testing.assert_allclose(AND.mean_recovery, [0, 0, 0, 1, 0, 0, 0, 1])
    assert AND.recovery([A | B], 200, RNG)[0].value == 1


def test_heads_that_do_the_same_work_are_redundant_and_partners_are_not():
    for effects, found in ((OR, [True, True, False]), (AND, [False, False, False])):
        interactions = effects.interactions(200, RNG)
        assert redundant(interactions, effects.redundancy_pvalues, min_interaction=0.02, level=0.05) == found


def test_tests_of_redundancy_are_corrected_for_all_pairs_of_heads():
    # Every pair of inputs agrees that A and B are redundant: 1 / 2**8, for the smallest of three tests.
    np.testing.assert_allclose(OR.redundancy_pvalues[0, 1], 3 / 2**8)
    assert OR.redundancy_pvalues[0, 0] == OR.redundancy_pvalues[0, 2] == 1
    np.testing.assert_array_equal(OR.redundancy_pvalues, OR.redundancy_pvalues.T)


def test_the_most_negative_of_many_interactions_is_negative_by_chance():
    """Heads whose sets do nothing but noise: a test of the most negative interaction of each head finds them."""
    rng, found, uncorrected = np.random.default_rng(0), 0, 0
    heads = tuple(HeadPatch(0, head) for head in range(6))
    for _ in range(200):
        change = rng.normal(size=(2**6, 20)).astype(np.float32)
        effects = SubsetEffects(heads, change, np.full(20, 0.5))
        interactions = effects.interactions(100, rng)
        found += any(redundant(interactions, effects.redundancy_pvalues, min_interaction=0.0, level=0.05))
        uncorrected += (interactions.high < 0).any()
    assert uncorrected > 50, "five times as often as the level says"
    assert found <= 18  # the 99th percentile of 200 draws at 5 %


def test_a_small_or_an_unproven_interaction_is_no_redundancy():
    value = np.array([[0, -0.5], [-0.5, 0]])
    interactions = Estimates(value, value - 0.1, value + 0.1)
    sure, unsure = np.array([[1, 0.01], [0.01, 1]]), np.array([[1, 0.06], [0.06, 1]])
    assert redundant(interactions, sure, min_interaction=0.02, level=0.05) == [True, True]
    assert redundant(interactions, unsure, min_interaction=0.02, level=0.05) == [False, False]
    assert redundant(interactions, sure, min_interaction=0.6, level=0.05) == [False, False]


def test_best_sets_are_chosen_on_some_pairs_and_measured_on_others():
    chosen = effects_of({A: 0.9, B: 0.1, A | B: 0.2, A | C: 0.8, 7: 1.0})
    measured = effects_of({A: 0.3, B: 0.6, C: 0.0, A | B: 0.9, A | C: 0.4, B | C: 0.5, 7: 1.0})
    rows = best_sets(chosen, measured, (HEADS[1], HEADS[2], HEADS[0]), resamples=200, seed=0)
    found = {(row["set"], row["size"]): (row.get("heads"), round(row["value"], 6)) for row in rows}
    assert found == {
        ("best", 0): ("", 0),
        ("best", 1): ("L0H0", 0.3),
        ("best", 2): ("L0H0+L1H0", 0.4),
        ("best", 3): ("L0H0+L0H1+L1H0", 1),
        ("ablation", 0): ("", 0),
        ("ablation", 1): ("L0H1", 0.6),
        ("ablation", 2): ("L0H1+L1H0", 0.5),
        ("ablation", 3): ("L0H0+L0H1+L1H0", 1),
        ("average", 0): (None, 0),
        ("average", 1): (None, 0.3),
        ("average", 2): (None, 0.6),
        ("average", 3): (None, 1),
    }


def test_the_optimism_of_a_best_set_is_what_the_choice_added_to_it():
    chosen, measured = effects_of({A: 0.9, 7: 1.0}), effects_of({A: 0.3, B: 0.6, 7: 1.0})
    rows = best_sets(chosen, measured, HEADS, resamples=200, seed=0)
    optimism = {row["size"]: row["optimism"] for row in rows if row["set"] == "best"}
    assert optimism == pytest.approx({0: 0, 1: 0.6, 2: 0, 3: 0}, abs=1e-6)
    assert all("optimism" not in row for row in rows if row["set"] != "best")


def test_every_set_is_patched(trained):
    pairs = token_pairs(read_pairs(trained.data / "pilot_pairs.jsonl"))[:6]
    experiment = PairExperiment(SweepEngine(load_model(trained.checkpoint)), pairs, "denoising")
    measured = measure_subsets(experiment, HEADS)
    sets = [(), HEADS[:1], HEADS[1:2], HEADS[:2], HEADS[2:], (HEADS[0], HEADS[2]), HEADS[1:], HEADS]
    np.testing.assert_allclose(measured.change, experiment.effects(sets).change, atol=1e-4)
    assert measured.gap.tolist() == experiment.gap.tolist()
    everybody = measured.shapley(200, RNG).value.sum()
    assert everybody == pytest.approx(measured.mean_recovery[-1] - measured.mean_recovery[0])


def test_too_many_heads_are_refused():
    heads = tuple(HeadPatch(0, head) for head in range(21))
    with pytest.raises(
        PilotError, match=r"21 heads have 2\*\*21 sets, too many: set counterfactual.exhaustive to false"
    ):
        measure_subsets(None, heads)
