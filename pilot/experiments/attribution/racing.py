"""The heads of largest effect without patching every head on every pair.

Heads race: all are patched on a few pairs, then on a few more, and a head drops out as soon as it is clear that it is
among the best, or is not (successive elimination: Even-Dar, Mannor & Mansour 2006, JMLR 7). Two heads are compared on
the same pairs, so that what makes a pair large or small for both cancels.

Shapes: n heads, P pairs; a heads still in the race, m pairs of the rounds so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pilot.errors import PilotError
from pilot.experiments.attribution.sampling import half_width, sampling_rounds

Changes = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (heads (a,), pairs (m,)) -> (a, m)


class Race(NamedTuple):
    """`best` are the numbers of the chosen heads, in order; `patched` is how many (head, pair) were patched."""

    best: np.ndarray
    patched: int


def race(
    changes: Changes, n: int, n_pairs: int, k: int, level: float, rng: np.random.Generator, pairs_per_round: int = 16
) -> Race:
    """The k of n heads of largest mean change over all pairs, wrong in at most `level` of races.

    changes   (heads (a,), pairs (m,)) -> (a, m), such as LD changes by patching these heads alone on these pairs

    Every two heads have an interval for their mean difference in every round: paired t, for pairs drawn without
    replacement from P. All of them hold at once with probability 1 - level (Bonferroni), and then the result is that of
    patching everything. Changes far from normal are what pairs_per_round is for: t intervals of so few pairs must do.
    Raises PilotError unless 1 <= k <= n and a round has 2 pairs or more.
    """
    if not 1 <= k <= n:
        raise PilotError(f"cannot choose {k} of {n} heads")
    rounds = sampling_rounds(n_pairs, pairs_per_round, rng)
    tail = level / max(1, n * (n - 1) * (len(rounds) - 1))  # of n (n - 1) / 2 intervals a round, at either end
    racing, best, measured, patched = np.arange(n), np.empty(0, int), np.empty((n, 0)), 0
    for number, pairs in enumerate(rounds, start=1):
        measured = np.concatenate([measured, changes(racing, pairs)], axis=1)
        patched += len(racing) * len(pairs)
        places = k - len(best)
        if number == len(rounds):
            chosen = np.argsort(-measured.mean(1), kind="stable")[:places]
            return Race(np.sort(np.append(best, racing[chosen])), patched)
        better = _better(measured, n_pairs, tail)
        won = better.sum(1) >= len(racing) - places
        lost = better.sum(0) >= places
        best = np.append(best, racing[won])
        racing, measured = racing[~(won | lost)], measured[~(won | lost)]
        if len(best) == k or len(best) + len(racing) == k:  # the rest is lost, or has won without a contest
            break
    return Race(np.sort(best if len(best) == k else np.append(best, racing)), patched)


def _better(measured: np.ndarray, n_pairs: int, tail: float) -> np.ndarray:
    """Whether one head is clearly better than another: (a, m) -> (a, a) bool, row over column."""
    covariance = np.cov(measured)
    variance = np.diag(covariance)[:, None] + np.diag(covariance) - 2 * covariance
    mean = measured.mean(1)
    return np.asarray(mean[:, None] - mean > half_width(variance, measured.shape[1], n_pairs, tail))
