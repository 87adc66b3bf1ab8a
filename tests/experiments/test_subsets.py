import numpy as np
import pytest

from pilot.arithmetic.pairs import read_pairs
from pilot.errors import PilotError
from pilot.experiments.effects import measure_effects
from pilot.experiments.statistics import Estimates
from pilot.experiments.subsets import Game, best_sets, play, redundant_with
from pilot.interventions import HeadPatch
from pilot.models.checkpoint import load_model

HEADS = (HeadPatch(0, 0), HeadPatch(0, 1), HeadPatch(1, 0))
A, B, C = 1, 2, 4


def game(worth: dict[int, float], pairs: int = 4) -> Game:
    """Three heads; a set is worth what its mask is said to be, on every pair, in units of a gap of 2."""
    change = np.array([[2 * worth.get(mask, 0.0)] * pairs for mask in range(8)], dtype=np.float32)
    return Game(HEADS, change, np.full(pairs, 2.0))


OR = game({mask: float(bool(mask & (A | B))) for mask in range(8)})
AND = game({mask: float(mask & (A | B) == A | B) for mask in range(8)})
RNG = np.random.default_rng(0)


def test_values_are_shares_of_the_gap():
    np.testing.assert_allclose(OR.shapley(200, RNG).value, [0.5, 0.5, 0], atol=1e-12)
    np.testing.assert_allclose(AND.mean_recovery, [0, 0, 0, 1, 0, 0, 0, 1])
    assert AND.recovery([A | B], 200, RNG)[0].value == 1


def test_heads_that_do_the_same_work_are_redundant_and_partners_are_not():
    assert redundant_with(OR.interactions(200, RNG), least=0.02) == [1, 0, None]
    assert redundant_with(AND.interactions(200, RNG), least=0.02) == [None, None, None]


def test_an_interaction_that_may_be_zero_is_no_redundancy():
    value = np.array([[0, -0.5], [-0.5, 0]])
    assert redundant_with(Estimates(value, value - 1, value + 1), least=0.02) == [None, None]
    assert redundant_with(Estimates(value, value - 0.1, value + 0.1), least=0.6) == [None, None]


def test_best_sets_are_chosen_on_one_game_and_measured_on_the_other():
    chosen = game({A: 0.9, B: 0.1, A | B: 0.2, A | C: 0.8, 7: 1.0})
    measured = game({A: 0.3, B: 0.6, C: 0.0, A | B: 0.9, A | C: 0.4, B | C: 0.5, 7: 1.0})
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


def test_a_game_is_played_with_patched_runs(trained):
    model = load_model(trained.checkpoint)
    pairs = read_pairs(trained.data / "pilot_pairs.jsonl")[:6]
    played = play(model, pairs, "denoising", HEADS, "auto")
    sets = [(), HEADS[:1], HEADS[1:2], HEADS[:2], HEADS[2:], (HEADS[0], HEADS[2]), HEADS[1:], HEADS]
    np.testing.assert_allclose(played.change, measure_effects(model, pairs, "denoising", sets).change, atol=1e-4)
    everybody = played.shapley(200, RNG).value.sum()
    assert everybody == pytest.approx(played.mean_recovery[-1] - played.mean_recovery[0])


def test_too_many_heads_are_refused():
    heads = tuple(HeadPatch(0, head) for head in range(21))
    with pytest.raises(
        PilotError, match=r"21 heads have 2\*\*21 sets, too many: set counterfactual.exhaustive to false"
    ):
        play(None, [], "denoising", heads, "auto")
