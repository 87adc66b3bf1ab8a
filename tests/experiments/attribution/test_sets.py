import numpy as np
import pytest

from pilot.experiments.attribution.sets import (
    additive,
    greedy_sets,
    kernel_shap,
    permutation_shapley,
    regret,
    top_sets,
)
from pilot.experiments.shapley import shapley

N = 6


class Game:
    """The worth of the sets of a game, and how many were asked for."""

    def __init__(self, worth):
        self.worth, self.asked = np.asarray(worth, dtype=float), 0

    def __call__(self, masks):
        self.asked += len(masks)
        return self.worth[masks]


def random_game(seed=0) -> Game:
    return Game(np.random.default_rng(seed).standard_normal(2**N))


def test_additive_worth_is_the_sum_of_the_members():
    assert additive(np.array([1.0, 10.0, 100.0])).tolist() == [0, 1, 10, 11, 100, 101, 110, 111]


def test_top_sets_take_the_largest_first():
    assert top_sets(np.array([0.1, 0.5, 0.3])).tolist() == [0b000, 0b010, 0b110, 0b111]


def test_greedy_takes_what_helps_most_and_can_be_misled():
    worth = np.zeros(8)
    worth[0b001], worth[0b011], worth[0b101] = 0.2, 0.3, 0.25
    worth[0b110] = 0.9  # the best two, neither of which does anything alone
    game = Game(worth)
    masks = greedy_sets(game, 3)
    assert masks.tolist() == [0b000, 0b001, 0b011, 0b111]
    assert game.asked == 3 * 4 / 2
    assert regret(worth, masks).tolist() == pytest.approx([0, 0, 0.6, 0])


@pytest.mark.parametrize(("estimate", "effort"), [(permutation_shapley, 20000), (kernel_shap, 100000)])
def test_shapley_estimates_converge_to_the_exact_values(estimate, effort):
    game = random_game()
    found = estimate(game, N, effort, np.random.default_rng(1))
    np.testing.assert_allclose(found, shapley(game.worth), atol=0.03)


@pytest.mark.parametrize(("estimate", "effort"), [(permutation_shapley, 1), (kernel_shap, 60)])
def test_shapley_estimates_are_exact_where_effects_add_up(estimate, effort):
    scores = np.array([0.5, -0.2, 0.1, 0.0, 0.3, 0.05])
    found = estimate(Game(additive(scores) + 2.0), N, effort, np.random.default_rng(0))
    np.testing.assert_allclose(found, scores, atol=1e-12)


@pytest.mark.parametrize(
    ("estimate", "effort", "sets"), [(permutation_shapley, 4, 4 * (N - 1) + 2), (kernel_shap, 20, 22)]
)
def test_shapley_estimates_add_up_and_cost_what_they_say(estimate, effort, sets):
    game = random_game()
    found = estimate(game, N, effort, np.random.default_rng(0))
    assert found.sum() == pytest.approx(game.worth[-1] - game.worth[0])
    assert game.asked == sets


def test_kernel_shap_draws_no_set_twice_and_is_exact_where_it_asks_for_all():
    game = random_game()
    truth = shapley(game.worth)

    def error(budget: int) -> float:
        found = [kernel_shap(game, N, budget, np.random.default_rng(seed)) for seed in range(50)]
        return float(np.abs(found - truth).mean())

    assert error(14) > error(30) > error(54) > error(2**N)
    np.testing.assert_allclose(kernel_shap(game, N, 2**N, np.random.default_rng(0)), truth, atol=1e-12)
    asked = []
    kernel_shap(lambda masks: asked.extend(masks) or game(masks), N, 54, np.random.default_rng(0))
    assert len(asked) == len(set(asked)) == 56


def test_regret_is_against_the_best_of_the_same_size():
    worth = np.array([0, 1, 3, 2.0])
    assert regret(worth, np.arange(4)).tolist() == [0, 2, 0, 0]


def test_with_pairs_the_best_set_is_that_of_all_of_them():
    worth = np.array([[0, 0], [1, 0], [0, 3], [2, 2.0]])
    assert regret(worth, np.array([1, 2])).tolist() == [[-1, 3], [0, 0]]
