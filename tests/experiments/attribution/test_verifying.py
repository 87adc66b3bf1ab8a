from collections import Counter

import numpy as np
import pytest
from scipy import stats

from pilot.errors import PilotError
from pilot.experiments.attribution.verifying import Verified, verify

THRESHOLD = 0.05


def noise(rng, kind: str, shape: tuple[int, int]) -> np.ndarray:
    """Of mean 0 and variance 1."""
    if kind == "skewed":
        return rng.exponential(size=shape) - 1
    if kind == "heavy":
        return rng.standard_t(3, size=shape) / np.sqrt(3)
    return (rng.lognormal(size=shape) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)  # both


def population(rng, kind: str, n=30, n_pairs=64) -> np.ndarray:
    """Most heads do little; a few, of either sign, much. Heads share a factor of each pair and have noise of their own.

    The first two act on a fifth of the pairs only, as on those of one template.
    """
    effects = rng.choice([-1, 1], n) * rng.exponential(0.02, n)
    effects[:6] = rng.choice([-1, 1], 6) * rng.uniform(0.03, 0.5, 6)
    changes = rng.exponential(size=n_pairs) * effects[:, None]
    changes += (0.3 * np.abs(effects)[:, None] + 0.01) * noise(rng, kind, changes.shape)
    few = rng.random(n_pairs) < 0.2
    changes[:2] = few * rng.normal([[0.4], [-0.5]], 0.1, (2, n_pairs)) + 0.01 * noise(rng, kind, (2, n_pairs))
    return changes


def approximations(rng, changes: np.ndarray) -> dict[str, np.ndarray]:
    blind = 0.9 * changes
    largest = np.argsort(-np.abs(changes.mean(1)))[:3]
    blind[largest] = changes[largest] / 9  # 0.05 for 0.45
    return {
        "good": 0.9 * changes + 0.1 * changes * rng.normal(size=changes.shape),
        "blind to the largest": blind,
        "unrelated": np.abs(changes).mean(1, keepdims=True) * rng.normal(size=changes.shape),
        "of the wrong sign": -changes,
        "none": np.zeros_like(changes),
    }


def verified(changes, approximation, level=0.05, seed=0, threshold=THRESHOLD, pairs_per_round=16) -> Verified:
    return verify(
        lambda heads, pairs: changes[np.ix_(heads, pairs)],
        approximation,
        threshold,
        level,
        np.random.default_rng(seed),
        pairs_per_round,
    )


def large(changes) -> list[int]:
    return np.flatnonzero(np.abs(changes.mean(1)) > THRESHOLD).tolist()


def test_heads_are_missed_as_seldom_as_stated_whatever_the_approximation():
    runs, level = 800, 0.05
    missed, patched, outside = Counter(), Counter(), Counter()
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        changes = population(rng, ("skewed", "heavy", "lognormal")[seed % 3])
        mean, wanted = changes.mean(1), large(changes)
        for name, approximation in approximations(rng, changes).items():
            found = verified(changes, approximation, level, seed)
            assert set(found.found) <= set(wanted)
            missed[name] += len(found.found) < len(wanted)
            patched[name] += found.patched / changes.size / runs
            rounding = 1e-9
            wrong = (mean < found.estimate.low - rounding) | (mean > found.estimate.high + rounding)
            outside[name] += wrong.mean() / runs
    for name in patched:
        assert stats.binomtest(missed[name], runs).proportion_ci(method="wilson").high <= level, missed
        assert outside[name] < 0.01, "each estimate's bounds hold far more often than 95 %"
    assert patched["good"] < patched["none"] < patched["of the wrong sign"] < 0.65


def test_a_good_approximation_saves_most_patches_of_a_large_model():
    patched = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        changes = np.concatenate([population(rng, "skewed", 30, 128), 0.003 * noise(rng, "heavy", (240, 128))])
        found = verified(changes, approximations(rng, changes)["good"], seed=seed)
        assert found.found.tolist() == large(changes)
        patched.append(found.patched / changes.size)
    assert np.mean(patched) < 0.2


def test_what_is_found_was_patched_on_every_pair_and_the_rest_is_estimated():
    changes = population(np.random.default_rng(0), "skewed")
    found = verified(changes, 0.9 * changes)
    assert found.found.tolist() == large(changes)
    np.testing.assert_array_equal(found.change, changes[found.found])
    np.testing.assert_allclose(found.estimate.value[found.found], changes[found.found].mean(1))
    np.testing.assert_allclose(found.estimate.high[found.found], found.estimate.low[found.found])
    dropped = np.setdiff1d(np.arange(len(changes)), found.found)
    assert (np.maximum(-found.estimate.low, found.estimate.high)[dropped] <= THRESHOLD).all()
    assert (found.estimate.high > found.estimate.low)[dropped].any()


def test_an_approximation_that_is_off_by_a_constant_takes_one_round():
    changes = np.random.default_rng(0).normal(size=(5, 64)) * 0.001
    found = verified(changes, changes + 7.0)
    assert not len(found.found)
    assert found.change.shape == (0, 64)
    assert found.patched == 5 * 16
    np.testing.assert_allclose(found.estimate.value, changes.mean(1))


def test_heads_that_cannot_be_told_from_the_threshold_are_patched_on_every_pair():
    changes = THRESHOLD * np.array([[1.01], [-1.01], [0.99]]) + np.random.default_rng(0).normal(size=(3, 40))
    changes += THRESHOLD * np.array([[1.01], [-1.01], [0.99]]) - changes.mean(1, keepdims=True)
    found = verified(changes, np.zeros_like(changes))
    assert found.found.tolist() == [0, 1]
    assert found.patched == changes.size


def test_the_last_round_takes_what_is_left():
    changes = np.random.default_rng(0).normal(size=(4, 31)) * 0.001
    changes[0] += 1
    found = verified(changes, np.zeros_like(changes))
    assert found.patched == 4 * 16 + 15


def test_fewer_pairs_than_a_round_are_all_patched():
    changes = np.array([[0.2, 0.1], [0.0, 0.01]])
    found = verified(changes, np.zeros_like(changes))
    assert found.found.tolist() == [0]
    assert found.patched == 4


def test_rounds_without_a_spread_are_refused():
    with pytest.raises(PilotError, match="spread"):
        verified(np.zeros((4, 32)), np.zeros((4, 32)), pairs_per_round=1)
