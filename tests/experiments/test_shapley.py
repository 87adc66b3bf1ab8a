from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.experiments.shapley import best_of_each_size, shapley, shapley_interactions


def game(n: int, worth) -> np.ndarray:
    """(2**n,): worth(set of players) of every coalition."""
    return np.array([worth({i for i in range(n) if mask >> i & 1}) for mask in range(2**n)], dtype=float)


def mask_of(players) -> int:
    return sum(2**i for i in players)


def numbers(size: int) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.integers(-50, 50), min_size=size, max_size=size).map(np.array)


games = st.integers(0, 5).flatmap(lambda n: numbers(2**n))
games_of_four = numbers(16)


def players_of(values: np.ndarray) -> range:
    return range(len(values).bit_length() - 1)


def joining_in_all_orders(values: np.ndarray) -> np.ndarray:
    total = np.zeros(len(players_of(values)))
    for order in permutations(players_of(values)):
        for place, player in enumerate(order):
            total[player] += values[mask_of(order[: place + 1])] - values[mask_of(order[:place])]
    return total / factorial(len(total))


def interaction_by_definition(values: np.ndarray, i: int, j: int) -> float:
    n = len(players_of(values))
    others = [player for player in range(n) if player not in (i, j)]
    total = 0.0
    for size in range(n - 1):
        weight = factorial(size) * factorial(n - size - 2) / factorial(n - 1)
        for coalition in combinations(others, size):
            s = mask_of(coalition)
            total += weight * (values[s | 1 << i | 1 << j] - values[s | 1 << i] - values[s | 1 << j] + values[s])
    return total


def test_glove_game():
    """Players 0 and 1 have a left glove each and player 2 the only right one; a pair of gloves is worth 1."""
    gloves = game(3, lambda s: 2 in s and len(s) > 1)
    assert shapley(gloves) == pytest.approx([1 / 6, 1 / 6, 4 / 6])
    interactions = [[0, -1 / 2, 1 / 2], [-1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0]]
    assert shapley_interactions(gloves) == pytest.approx(np.array(interactions))


def test_airport_game():
    """A runway serves whom it is long enough for: each stretch is paid in equal parts by those who use it."""
    lengths = [1, 3, 7]
    runway = game(3, lambda s: max((lengths[i] for i in s), default=0))
    assert shapley(runway) == pytest.approx([1 / 3, 1 / 3 + 2 / 2, 1 / 3 + 2 / 2 + 4])


def test_majority_vote():
    assert shapley(game(3, lambda s: len(s) >= 2)) == pytest.approx([1 / 3] * 3)
    assert shapley_interactions(game(3, lambda s: len(s) >= 2)) == pytest.approx(np.zeros((3, 3)))
    two_votes_and_one_and_one = game(3, lambda s: sum([2, 1, 1][i] for i in s) >= 3)
    assert shapley(two_votes_and_one_and_one) == pytest.approx([4 / 6, 1 / 6, 1 / 6])


@pytest.mark.parametrize("team", [{0, 2}, {0, 1, 3}, {0, 1, 2, 3}])
def test_a_team_shares_equally_and_its_members_interact_for_and_and_against_for_or(team):
    needs_all, needs_any = game(4, lambda s: team <= s), game(4, lambda s: bool(team & s))
    member = np.array([i in team for i in range(4)])
    together = np.outer(member, member) & ~np.eye(4, dtype=bool)
    for values, sign in ((needs_all, 1), (needs_any, -1)):
        assert shapley(values) == pytest.approx(member / len(team))
        assert shapley_interactions(values) == pytest.approx(sign * together / (len(team) - 1))


def test_sixteen_players_who_just_add_up_get_what_they_bring_and_do_not_interact():
    brings = np.arange(16) - 5.0
    values = (np.arange(2**16)[:, None] >> np.arange(16) & 1) @ brings
    assert shapley(values) == pytest.approx(brings)
    assert shapley_interactions(values) == pytest.approx(np.zeros((16, 16)), abs=1e-9)
    assert best_of_each_size(values).tolist()[:3] == [0, 1 << 15, 0b11 << 14]


@given(games)
def test_shapley_averages_over_all_orders_of_joining(values):
    assert shapley(values) == pytest.approx(joining_in_all_orders(values))


@given(games)
def test_shapley_values_add_up_to_what_everybody_gains(values):
    assert shapley(values).sum() == pytest.approx(values[-1] - values[0])


@given(games_of_four, st.permutations(range(4)))
def test_renaming_the_players_renames_the_results(values, new_name):
    renamed = game(4, lambda s: values[mask_of(i for i in range(4) if new_name[i] in s)])
    assert shapley(renamed)[new_name] == pytest.approx(shapley(values))
    assert shapley_interactions(renamed)[np.ix_(new_name, new_name)] == pytest.approx(shapley_interactions(values))


@given(numbers(8), st.integers(0, 3), st.integers(-50, 50))
def test_a_player_who_adds_the_same_to_everybody_gets_it_and_interacts_with_nobody(values, player, adds):
    low = 2**player
    joined = np.stack([values.reshape(-1, low), values.reshape(-1, low) + adds], axis=1).ravel()
    assert shapley(joined)[player] == pytest.approx(adds)
    assert np.delete(shapley(joined), player) == pytest.approx(shapley(values))
    assert shapley_interactions(joined)[player] == pytest.approx(np.zeros(4), abs=1e-9)


@given(games_of_four, games_of_four, st.integers(-5, 5))
def test_results_are_linear_in_the_game(one, other, factor):
    for solve in (shapley, shapley_interactions):
        assert solve(one + factor * other) == pytest.approx(solve(one) + factor * solve(other), abs=1e-9)


@given(games)
def test_interactions_follow_their_definition(values):
    result = shapley_interactions(values)
    for i in players_of(values):
        for j in players_of(values):
            assert result[i, j] == (pytest.approx(interaction_by_definition(values, i, j), abs=1e-9) if i != j else 0)


@given(games)
def test_a_players_interactions_add_up_to_what_it_adds_last_less_what_it_adds_first(values):
    result = shapley_interactions(values)
    assert np.array_equal(result, result.T)
    for i in players_of(values):
        last, first = values[-1] - values[-1 - 2**i], values[2**i] - values[0]
        assert result[i].sum() == pytest.approx(last - first, abs=1e-9)


def test_further_axes_are_games_of_their_own():
    values = np.random.default_rng(0).normal(size=(8, 2, 3)).astype(np.float32)
    for solve in (shapley, shapley_interactions):
        result = solve(values)
        assert result.dtype == np.float64
        for index in np.ndindex(2, 3):
            assert result[..., *index] == pytest.approx(solve(values[:, *index].astype(float)), abs=1e-12)


def test_right_and_wrong_can_be_played_for():
    for solve in (shapley, shapley_interactions):
        assert np.array_equal(solve(np.array([False, True, True, True])), solve(np.array([0.0, 1, 1, 1])))


def test_the_best_coalition_of_each_size_is_the_smallest_mask_among_equals():
    #                  {}  0  1  01  2  02  12  012
    values = np.array([5, 1, 2, 7, 2, 9, 9, -3])
    assert best_of_each_size(values).tolist() == [0b000, 0b010, 0b101, 0b111]
    assert best_of_each_size(np.array([4.0])).tolist() == [0]


@pytest.mark.parametrize("solve", [shapley, shapley_interactions, best_of_each_size])
@pytest.mark.parametrize("size", [0, 3, 65535])
def test_a_missing_coalition_is_refused(solve, size):
    with pytest.raises(ValueError, match=f"{size} values are not one for every coalition"):
        solve(np.zeros(size))
