"""All heads of large effect, without patching every head on every pair: approximate, then correct from a sample.

The approximation is known for every head and pair. Heads are patched on a random sample of the pairs, which tells how
far the approximation is off there. A head's mean effect is estimated as the mean of its approximation over all pairs,
plus the mean error in the sample (the difference estimator of survey sampling: Cochran 1977, "Sampling Techniques",
chapter 7). The sample grows by rounds, and a head drops out as soon as its effect is clearly small. A poor
approximation makes intervals wider and more pairs patched; it does not make the result wrong.

Shapes: n heads, P pairs, f heads above the threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pilot.experiments.attribution.racing import Changes
from pilot.experiments.attribution.sampling import half_width, sampling_rounds
from pilot.experiments.statistics import Estimates


class Verified(NamedTuple):
    """What is known of the heads.

    found      (f,) numbers of the heads above the threshold, in order; all were patched on every pair
    change     (f, P) what patching them changes
    estimate   (n,) mean change over all pairs, with bounds; they meet where a head was patched on every pair
    patched    how many (head, pair) were patched
    """

    found: np.ndarray
    change: np.ndarray
    estimate: Estimates
    patched: int


def verify(
    changes: Changes,
    approximation: np.ndarray,
    threshold: float,
    level: float,
    rng: np.random.Generator,
    pairs_per_round: int,
) -> Verified:
    """The heads whose mean change over all pairs is larger than `threshold` in size, positive or negative.

    changes         as of `race`
    approximation   (n, P) of the same changes, however good
    level           the probability that any such head is missed

    Every head has a t interval in every round, for pairs drawn without replacement. Where errors are close to normal
    all of them hold at once with probability 1 - level (Bonferroni). Skewed errors break one of many intervals more
    often, but hardly one that decides: in the simulations of the tests heads are missed less often than `level`, and
    each estimate's bounds hold in 99 %, with rounds of 16 pairs. With 8, heads that act on a fifth of the pairs are
    missed too often: a sample has to meet such pairs. Raises PilotError for a round of fewer than 2 pairs.
    """
    n, n_pairs = approximation.shape
    rounds = sampling_rounds(n_pairs, pairs_per_round, rng)
    order = np.concatenate(rounds)
    tail = level / max(1, 2 * n * (len(rounds) - 1))
    value, low, high = np.empty((3, n))
    heads, measured, patched = np.arange(n), np.empty((n, 0)), 0
    for pairs in rounds:
        measured = np.concatenate([measured, changes(heads, pairs)], axis=1)
        patched += len(heads) * len(pairs)
        sampled = measured.shape[1]
        approximate = approximation[heads]
        error = measured - approximate[:, order[:sampled]]
        width = half_width(error.var(1, ddof=1), sampled, n_pairs, tail)  # 0 in the last round
        value[heads] = approximate.mean(1) + error.mean(1)
        low[heads], high[heads] = value[heads] - width, value[heads] + width
        large = np.maximum(-low, high)[heads] > threshold
        heads, measured = heads[large], measured[large]
        if not len(heads):
            break
    change = np.empty((len(heads), n_pairs))
    change[:, order[: measured.shape[1]]] = measured
    return Verified(heads, change, Estimates(value, low, high), patched)
