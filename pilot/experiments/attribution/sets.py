"""Approximations for sets of heads: from some of the 2**n sets to all of them, to the best ones, to Shapley values.

A set is a bit mask of n heads, as in pilot.experiments.shapley. `value` gives the worth of sets, masks (M,) -> (M,),
such as the recovery from patching them. Every set that it is asked for costs a forward for each pair.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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

    Asks for `budget` sets, and the empty and the whole set (Lundberg & Lee 2017, arXiv:1705.07874; complements as in
    Covert & Lee 2021, arXiv:2012.01536). The values add up as in `permutation_shapley`; n is 2 or more.
    """
    sizes = np.arange(1, n)
    weight = 1 / (sizes * (n - sizes))
    drawn = rng.choice(sizes, size=max(1, budget // 2), p=weight / weight.sum())
    member = rng.permuted(np.tile(np.arange(n), (len(drawn), 1)), axis=1) < drawn[:, None]
    member = np.concatenate([member, ~member])
    none, everybody = value(np.array([0, 2**n - 1]))
    worth = value(member @ (1 << np.arange(n))) - none
    last = member[:, -1].astype(float)  # its value is what the others leave of the total
    others = member[:, :-1] - last[:, None]
    found = np.linalg.lstsq(others, worth - last * (everybody - none), rcond=None)[0]
    return np.append(found, everybody - none - found.sum())


def regret(worth: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How much less each set is worth than the best one of its size.

    worth (2**n, ...) of all sets, masks (M,) -> (M, ...). Where there are further axes, such as pairs, the best set is
    that of largest mean over them.
    """
    total = worth.reshape(len(worth), -1).sum(1, dtype=np.float64)
    best = best_of_each_size(total)[np.bitwise_count(masks)]
    return np.asarray(worth[best] - worth[masks])
