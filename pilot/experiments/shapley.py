"""Coalition games played to the end: exact Shapley values and interactions from the value of every coalition.

Shapes: n players, 2**n coalitions. Entry S of `values` is what coalition S is worth. S is a bit mask: player i is in it
if bit i is set, so entry 0 is the empty coalition and the last entry is everybody. Further axes, such as the pairs that
sets of heads were patched in, are games of their own. Results are float64, in the unit of the values.
"""

from __future__ import annotations

import numpy as np
from scipy.special import comb


def shapley(values: np.ndarray) -> np.ndarray:
    """Each player's Shapley value: what it adds to those before it, averaged over all orders of joining.

    values (2**n, ...) -> (n, ...), which add up to the worth of everybody less that of nobody (Shapley 1953, "A value
    for n-person games"). Raises ValueError if the first size is not a power of two.
    """
    n = _number_of_players(values)
    member = _membership(n)
    others = member.sum(0) - member  # the number of other players in the coalition
    share = 1 / (n * comb(n - 1, np.arange(n)))  # of the orders in which just these others come first
    return np.tensordot(np.where(member, share[others], -share[others]), values, axes=1)


def shapley_interactions(values: np.ndarray) -> np.ndarray:
    """Each two players' Shapley interaction index: how much more one adds where the other is present than where not.

    values (2**n, ...) -> (n, n, ...), symmetric with a zero diagonal. Positive if the two need each other (AND: +1 for
    two players), negative if either will do (OR: -1), zero if what they add just adds up (Grabisch & Roubens 1999, "An
    axiomatic approach to the concept of interaction among players in cooperative games"). Raises ValueError if the
    first size is not a power of two.
    """
    n = _number_of_players(values)
    games = np.shape(values)[1:]
    result = np.zeros((n, n, *games))
    for i in range(n):
        # The recursive axiom: the index of i and j is j's Shapley value where the rest play for what i adds to them.
        without, with_i = np.moveaxis(np.reshape(values, (2 ** (n - 1 - i), 2, 2**i, *games)), 1, 0)
        added = np.subtract(with_i, without, dtype=np.float64).reshape(2 ** (n - 1), *games)
        result[i, i + 1 :] = result[i + 1 :, i] = shapley(added)[i:]
    return result


def best_of_each_size(values: np.ndarray) -> np.ndarray:
    """The mask of the coalition worth most among those of 0, 1, ... n players; among equals the smallest mask.

    values (2**n,) -> (n + 1,) int64. Raises ValueError if the size is not a power of two.
    """
    n = _number_of_players(values)
    size = _membership(n).sum(0)
    by_size = (np.flatnonzero(size == k) for k in range(n + 1))
    return np.array([masks[np.argmax(values[masks])] for masks in by_size])


def _number_of_players(values: np.ndarray) -> int:
    n = len(values).bit_length() - 1
    if len(values) != 2**n:
        raise ValueError(f"{len(values)} values are not one for every coalition: n players form 2**n coalitions")
    return n


def _membership(n: int) -> np.ndarray:
    """(n, 2**n) bool: whether player i is in coalition S."""
    return (np.arange(2**n) >> np.arange(n)[:, None] & 1).astype(bool)
