"""Approximations for sets of heads: from some of the 2**n sets to all of them, to the best ones, to Shapley values.

A set is a bit mask of n heads, as in pilot.experiments.shapley. `value` gives the worth of sets, masks (M,) -> (M,),
such as the recovery from patching them. Every set that it is asked for costs a forward for each pair.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import comb

from pilot.experiments.shapley import best_of_each_size

Value = Callable[[np.ndarray], np.ndarray]


def additive(scores: np.ndarray) -> np.ndarray:
    """The worth of every set if the heads' scores just add up: (n, ...) -> (2**n, ...)."""
    worth = np.zeros((1, *scores.shape[1:]))
    for score in scores:
        worth = np.concatenate([worth, worth + score])
    return worth


def top_sets(scores: np.ndarray) -> np.ndarray:
    """The masks of the 0, 1, ... n heads of largest score: (n + 1,)."""
    order = np.argsort(-scores, kind="stable")
    return np.concatenate([[0], np.cumsum(1 << order)])


def greedy_sets(value: Value, n: int) -> np.ndarray:
    """Forward selection: each mask adds to the one before the head that makes it worth most, (n + 1,).

    Asks for n (n + 1) / 2 sets.
    """
    masks = [0]
    for _ in range(n):
        larger = np.array([masks[-1] | 1 << head for head in range(n) if not masks[-1] >> head & 1])
        masks.append(int(larger[np.argmax(value(larger))]))
    return np.array(masks)


def permutation_shapley(value: Value, n: int, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Shapley values (n,) as the mean of what each head adds, over random orders of joining.

    Asks for n - 1 sets an order, and the empty and the whole set once (Castro, Gomez & Tejada 2009, "Polynomial
    calculation of the Shapley value based on sampling"). The values add up to the worth of all heads less that of none.
    """
    orders = rng.permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)
    joined = np.cumsum(1 << orders, axis=1)[:, :-1]
    none, everybody = value(np.array([0, 2**n - 1]))
    worth = np.pad(value(joined.ravel()).reshape(joined.shape), ((0, 0), (1, 1)), constant_values=(none, everybody))
    added = np.empty((permutations, n))
    np.put_along_axis(added, orders, np.diff(worth, axis=1), axis=1)
    return np.asarray(added.mean(0))


def kernel_shap(value: Value, n: int, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Shapley values (n,) by least squares on sets drawn by the Shapley kernel, each with its complement.

    Asks for `budget` sets, at most all of them, and for the empty and the whole set (Lundberg & Lee 2017,
    arXiv:1705.07874; complements as in Covert & Lee 2021, arXiv:2012.01536). No set is drawn twice, so that the values
    are exact where all are asked for. They add up as in `permutation_shapley`; n is 2 or more.
    """
    first, weight = _kernel_sample(n, max(1, budget // 2), rng)
    none, everybody = value(np.array([0, 2**n - 1]))
    worth = value(np.concatenate([first, 2**n - 1 - first])) - none
    member = first[:, None] >> np.arange(n) & 1
    member = np.concatenate([member, 1 - member]).astype(float)
    last = member[:, -1]  # its value is what the others leave of the total
    others = member[:, :-1] - last[:, None]
    scale = np.sqrt(np.tile(weight, 2))
    found = np.linalg.lstsq(scale[:, None] * others, scale * (worth - last * (everybody - none)), rcond=None)[0]
    return np.append(found, everybody - none - found.sum())


def _kernel_sample(n: int, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sets without the last head, which stand for themselves and their complement, and their weights.

    Each is drawn once at most, with a chance in proportion to its kernel, and surely where that is above 1 (systematic
    sampling with unequal probabilities: Madow 1949, "On the theory of systematic sampling, II"); its weight is its
    kernel divided by its chance.
    """
    masks = np.arange(1, 2 ** (n - 1))
    size = np.bitwise_count(masks).astype(int)
    kernel = 1 / (comb(n, size) * size * (n - size))
    if draws >= len(masks):
        return masks, kernel
    sure, chance = np.zeros(len(masks), dtype=bool), draws * kernel / kernel.sum()
    while (chance > 1).any():
        sure |= chance > 1
        chance = np.where(sure, 1.0, (draws - sure.sum()) * kernel / kernel[~sure].sum())
    order = rng.permutation(len(masks))
    reached = np.cumsum(chance[order])
    reached[-1] = draws  # whatever the rounding
    drawn = order[np.searchsorted(reached, rng.random() + np.arange(draws))]
    return masks[drawn], kernel[drawn] / chance[drawn]


def regret(worth: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How much less each set is worth than the best one of its size.

    worth (2**n, ...) of all sets, masks (M,) -> (M, ...). Where there are further axes, such as pairs, the best set is
    that of largest mean over them.
    """
    total = worth.reshape(len(worth), -1).sum(1, dtype=np.float64)
    best = best_of_each_size(total)[np.bitwise_count(masks)]
    return np.asarray(worth[best] - worth[masks])
