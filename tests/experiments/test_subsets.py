import numpy as np
import pytest

from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import token_pairs
from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.experiments.subsets import SubsetEffects, best_sets, best_sets_and_sums, measure_subsets
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


def test_pairs_of_prompts_can_be_taken_more_than_once():
    effects = SubsetEffects(HEADS[:1], np.array([[0.0, 0, 0], [1, 2, 3]], dtype=np.float32), np.array([2.0, 4, 6]))
    taken = effects.take(np.array([2, 2, 0]))
    assert taken.change.tolist() == [[0, 0, 0], [3, 3, 1]]
    assert taken.gap.tolist() == [6, 6, 2]


def test_best_sets_are_chosen_on_some_pairs_and_measured_on_others():
    chosen = effects_of({A: 0.9, B: 0.1, A | B: 0.2, A | C: 0.8, 7: 1.0})
    measured = effects_of({A: 0.3, B: 0.6, C: 0.0, A | B: 0.9, A | C: 0.4, B | C: 0.5, 7: 1.0})
    rows = best_sets(chosen, measured, {"ablation": (HEADS[1], HEADS[2], HEADS[0])}, resamples=200, seed=0)
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


def test_best_sets_are_held_against_single_effects_and_their_sums():
    chosen = effects_of({A: 0.1, B: 0.9, C: -0.2, 7: 1.0})
    measured = effects_of({A: 0.3, B: 0.6, C: -0.2, A | B: 0.7, A | C: 0.4, B | C: 0.5, 7: 1.0})
    rows = best_sets_and_sums(chosen, measured, resamples=200, seed=0)
    rows = [row for row in rows if row["size"] and row["set"] in ("single", "sum")]
    found = {(row["set"], row["size"]): (row["heads"], round(row["value"], 6)) for row in rows}
    assert found == {
        ("single", 1): ("L0H1", 0.6),
        ("single", 2): ("L0H0+L0H1", 0.7),
        ("single", 3): ("L0H0+L0H1+L1H0", 1),
        ("sum", 1): ("L0H1", 0.6),
        ("sum", 2): ("L0H0+L0H1", 0.9),
        ("sum", 3): ("L0H0+L0H1+L1H0", 0.7),
    }
    single, summed = (row for row in rows if row["size"] == 1)
    assert single == summed | {"set": "single"}


def test_the_optimism_of_a_best_set_is_what_the_choice_added_to_it():
    chosen, measured = effects_of({A: 0.9, 7: 1.0}), effects_of({A: 0.3, B: 0.6, 7: 1.0})
    rows = best_sets(chosen, measured, {"ablation": HEADS}, resamples=200, seed=0)
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
        PilotError,
        match=r"21 heads have 2\*\*21 sets, too many: choose 20 heads at most, or, .*exhaustive to false",
    ):
        measure_subsets(None, heads)
