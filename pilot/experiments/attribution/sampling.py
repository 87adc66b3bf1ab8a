"""Means over all pairs from a growing random sample of them: simple random sampling without replacement.

Intervals are Student's t with the finite population correction (Cochran 1977, "Sampling Techniques", chapter 2): they
shrink to nothing as the sample grows to all pairs.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from pilot.errors import PilotError


def sampling_rounds(n_pairs: int, pairs_per_round: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The numbers of all pairs in random order, in rounds of `pairs_per_round`; the last one may be smaller.

    Raises PilotError for a round of fewer than 2 pairs.
    """
    if pairs_per_round < 2:
        raise PilotError(f"a round of {pairs_per_round} pair has no spread: take 2 pairs or more")
    return np.split(rng.permutation(n_pairs), range(pairs_per_round, n_pairs, pairs_per_round))


def half_width(variance: np.ndarray, sampled: int, n_pairs: int, tail: float) -> np.ndarray:
    """By how much the mean of a sample is from that of all pairs, exceeded in either direction with probability `tail`.

    variance   of the sampled values (ddof 1); rounding below zero counts as zero
    sampled    how many of the `n_pairs` pairs are in the sample
    """
    error = np.sqrt(np.maximum(variance, 0) / sampled * (1 - sampled / n_pairs))
    return np.asarray(stats.t.isf(tail, sampled - 1) * error)
