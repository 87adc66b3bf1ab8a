import numpy as np
import pytest

from pilot.errors import PilotError
from pilot.experiments.evidence import Evidence, check_resamples, redundancy_pvalues
from pilot.experiments.statistics import adjusted
from pilot.experiments.subsets import SubsetEffects
from pilot.interventions import HeadPatch

HEADS = tuple(HeadPatch(layer, head) for layer in range(2) for head in range(2))
A, B = 1, 2
PAIRS = 40


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).normal(size=shape)


def pvalues(effect: list[float], control: list[float]) -> np.ndarray:
    gap = np.full(PAIRS, 1.0)
    change = np.array(effect)[:, None] + noise(len(effect), PAIRS)
    other = np.array(control)[:, None] + noise(len(effect), PAIRS, seed=1)
    return Evidence(change, other, gap).pvalues(0.1, 2000, np.random.default_rng(0))


def test_a_word_takes_a_large_effect_and_a_control_that_does_less():
    large, small, damaging, negative = pvalues([0.5, 0.05, 0.5, -0.5], [0.0, -0.3, 0.5, -0.9])
    assert large <= 0.001
    assert small == 1
    assert damaging > 0.05
    assert negative == 1


def test_an_effect_at_the_threshold_is_not_large():
    # The controls do much less; the effects of all ten heads are at the threshold.
    found = [
        (adjusted(Evidence(0.1 + noise(10, 30, seed=seed), -1 + noise(10, 30), np.ones(30)).pvalues(
            0.1, 999, np.random.default_rng(seed))) < 0.05).any()
        for seed in range(200)
    ]  # fmt: skip
    assert np.mean(found) <= 0.05


def test_pairs_without_a_control_count_for_the_effect_alone():
    evidence = Evidence(np.full((1, 20), 0.5) + noise(1, 20), np.zeros((1, 20)), np.ones(20))
    evidence.control[0, 4:] = np.nan
    assert evidence.pvalues(0.1, 2000, np.random.default_rng(0)) == 1 / 2**4
    assert evidence.take(np.arange(4, 20)).pvalues(0.1, 2000, np.random.default_rng(0)) == 1


def worth(by_mask: dict[int, float]) -> SubsetEffects:
    """Sets of A and B are worth what is said here, of other heads nothing."""
    change = np.array([by_mask.get(mask & (A | B), 0.0) for mask in range(2 ** len(HEADS))])
    return SubsetEffects(HEADS, change[:, None] + 0.01 * noise(len(change), PAIRS), np.ones(PAIRS))


EITHER, BOTH = worth({A: 1, B: 1, A | B: 1}), worth({A | B: 1})


@pytest.mark.parametrize(
    ("circuit", "denoising", "noising", "redundant"),
    [
        ("or", EITHER, BOTH, True),
        ("and", BOTH, EITHER, False),
        ("chain", EITHER, EITHER, False),
        ("sum", worth({A: 0.5, B: 0.5, A | B: 1}), worth({A: 0.5, B: 0.5, A | B: 1}), False),
        ("small", worth({A: 0.51, B: 0.5, A | B: 1}), worth({A: 0.49, B: 0.5, A | B: 1}), False),
    ],
)
def test_heads_are_redundant_if_either_is_enough_and_it_takes_both_to_lose_the_answer(
    circuit, denoising, noising, redundant
):
    p = redundancy_pvalues(denoising, noising, 0.02, 0.05, 2000, np.random.default_rng(0))
    assert np.array_equal(p, p.T)
    assert (p.diagonal() == 1).all()
    assert (p[0, 1] < 0.05) == redundant
    assert (np.delete(p[np.triu_indices(4, 1)], 0) > 0.05).all(), "the others do nothing"


def test_redundancy_is_corrected_for_all_pairs_of_heads():
    p = redundancy_pvalues(EITHER, BOTH, 0.02, 0.05, 999, np.random.default_rng(0))
    assert p[0, 1] == pytest.approx(6 * 2 / 1000)


def test_resamples_that_no_word_could_be_earned_with_are_refused():
    check_resamples(241, 6, 0.05)
    with pytest.raises(PilotError, match=r"239 resamples are too few to correct 6 tests at 0.05.*more than 240"):
        check_resamples(239, 6, 0.05)
    with pytest.raises(PilotError, match="200 resamples are too few to correct 6 tests"):
        redundancy_pvalues(EITHER, BOTH, 0.02, 0.05, 200, np.random.default_rng(0))
