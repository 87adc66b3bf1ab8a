import numpy as np
import pytest
from scipy import stats

from pilot.errors import PilotError
from pilot.experiments.attribution.racing import race


def population(rng, n=20, n_pairs=256, spread=0.3) -> np.ndarray:
    """Skewed changes: heads share a factor of each pair, and have noise of their own, as those of a trained model."""
    effects = np.sort(rng.exponential(0.15, size=n))[::-1]
    return rng.exponential(size=n_pairs) * effects[:, None] + spread * (rng.exponential(size=(n, n_pairs)) - 1)


def raced(changes, k, level=0.05, seed=0, **options):
    return race(
        lambda heads, pairs: changes[np.ix_(heads, pairs)],
        *changes.shape,
        k,
        level,
        np.random.default_rng(seed),
        **options,
    )


def test_the_winners_are_those_of_patching_everything_as_often_as_stated():
    rng = np.random.default_rng(0)
    level, wrong, patched, races = 0.05, 0, 0, 300
    for seed in range(races):
        changes = population(rng)
        found = raced(changes, 3, level, seed)
        wrong += set(found.best) != set(np.argsort(-changes.mean(1))[:3])
        patched += found.patched / changes.size
    assert stats.binomtest(wrong, races, level, alternative="greater").pvalue > 0.02, wrong
    assert patched / races < 0.8


def test_clear_effects_take_one_round():
    changes = np.random.default_rng(0).normal(size=(10, 128)) * 0.01
    changes[[2, 7]] += 1.0
    found = raced(changes, 2)
    assert found.best.tolist() == [2, 7]
    assert found.patched == 10 * 16


def test_heads_that_cannot_be_told_apart_are_patched_on_every_pair():
    changes = np.random.default_rng(0).normal(size=(6, 40))
    found = raced(changes, 3, level=1e-9)
    assert found.best.tolist() == sorted(np.argsort(-changes.mean(1))[:3].tolist())
    assert found.patched == changes.size


def test_fewer_pairs_than_a_round_and_all_heads_wanted():
    changes = np.random.default_rng(0).normal(size=(4, 5))
    assert raced(changes, 1).best.tolist() == [int(changes.mean(1).argmax())]
    everybody = raced(np.tile(changes, 8), 4)
    assert everybody.best.tolist() == [0, 1, 2, 3]
    assert everybody.patched == 4 * 16  # after one round nothing is left to decide


@pytest.mark.parametrize(
    ("k", "options", "message"), [(0, {}, "0 of 4"), (5, {}, "5 of 4"), (1, {"pairs_per_round": 1}, "spread")]
)
def test_what_makes_no_race_is_refused(k, options, message):
    with pytest.raises(PilotError, match=message):
        raced(np.zeros((4, 32)), k, **options)
