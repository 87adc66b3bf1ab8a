"""All approximations against exact patching, of single heads and of sets of heads.

Shapes: n heads, P pairs, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pilot.experiments.attribution.agreement import agreement, resampled_counts, with_intervals
from pilot.experiments.attribution.methods import Attribution, Method, exact
from pilot.experiments.attribution.sets import (
    additive,
    greedy_sets,
    kernel_shap,
    permutation_shapley,
    regret,
    top_sets,
)
from pilot.experiments.effects import PairExperiment
from pilot.experiments.shapley import best_of_each_size, shapley
from pilot.experiments.statistics import bootstrap_ratio, ratio_of_means
from pilot.experiments.subsets import SubsetEffects

EXACT = "exact"
MOST_AT_A_TIME = 2**22  # recoveries of resampled sets: 32 MiB

Scores = dict[str, Any]


def attributions(experiment: PairExperiment, methods: Mapping[str, Method]) -> dict[str, Attribution]:
    """By each of these methods, and "exact"."""
    return {name: method(experiment) for name, method in (*methods.items(), (EXACT, exact))}


def compare_heads(
    found: Mapping[str, Attribution], gap: np.ndarray, top_k: int, min_effect: float, resamples: int, seed: int
) -> Scores:
    """For each method its cost and how far it agrees with exact patching: see `agreement`."""
    truth = found[EXACT].change
    return {
        name: {"cost": cost, **agreement(change, truth, gap, top_k, min_effect, resamples, seed)}
        for name, (change, cost) in found.items()
    }


def compare_sets(
    found: Mapping[str, Attribution],
    chosen_on: SubsetEffects,
    measured_on: SubsetEffects,
    budgets: Sequence[int],
    repeats: int,
    resamples: int,
    seed: int,
) -> Scores:
    """What scores of single heads, and some of the sets, say about all 2**n sets.

    found         of the heads of the sets, on the pairs of `chosen_on`
    measured_on   other pairs, by which chosen sets are judged

    predicted   of each score, summed over the members of a set: the root mean square "error" of the recovery over all
                sets, and the "worst" error, each with its interval as of `agreement`
    chosen      of each way to choose a set of every size: the recovery lost, on other pairs, against the best set
                there, as the "mean" over the sizes 1 to n - 1 and the "worst" of them. A set is chosen by the largest
                scores, one head at a time ("greedy"), or as the best of all sets ("exhaustive"). Intervals are over
                those other pairs, for the sets as they were chosen and the best ones as they are
    shapley     of each estimator and budget: the number of "sets" that it takes and its root mean square "error" over
                the heads, the mean of `repeats` draws
    """
    n, worth = len(chosen_on.heads), chosen_on.mean_recovery
    changes = {name: change for name, (change, _) in found.items()} | {"shapley": shapley(chosen_on.change)}
    chosen = {name: top_sets(ratio_of_means(change, chosen_on.gap)) for name, change in changes.items()} | {
        "greedy": greedy_sets(worth.__getitem__, n),
        "exhaustive": best_of_each_size(worth),
    }
    counts = resampled_counts(len(chosen_on.gap), resamples, np.random.default_rng(seed))
    return {
        "predicted": {
            name: _errors(additive(change) - chosen_on.change, chosen_on.gap, counts)
            for name, change in changes.items()
        },
        "chosen": {
            name: _lost(regret(measured_on.change, masks), measured_on.gap, resamples, np.random.default_rng(seed))
            for name, masks in chosen.items()
        },
        "shapley": _sampled_shapley(worth, shapley(worth), budgets, repeats, np.random.default_rng(seed)),
    }


def _errors(error: np.ndarray, gap: np.ndarray, counts: np.ndarray) -> Scores:
    """error (2**n, P) of LD changes; counts (P, 1 + R) as of `resampled_counts`."""
    scores: dict[str, list[np.ndarray]] = {"error": [], "worst": []}
    for some in np.array_split(counts, np.ceil(counts.shape[1] * len(error) / MOST_AT_A_TIME), axis=1):
        recovery = error @ some / (gap @ some)
        scores["error"].append(np.sqrt((recovery**2).mean(0)))
        scores["worst"].append(np.abs(recovery).max(0))
    return with_intervals({name: np.concatenate(values) for name, values in scores.items()})


def _lost(change: np.ndarray, gap: np.ndarray, resamples: int, rng: np.random.Generator) -> Scores:
    """change (n + 1, P) between the best set of each size, from 0 on, and the chosen one."""
    rows = {"mean": change[1:-1].mean(0), "worst": change[np.argmax(change.mean(1))]}
    lost = bootstrap_ratio(np.stack(list(rows.values())), gap, resamples, rng)
    return {name: asdict(lost[i]) for i, name in enumerate(rows)}


def _sampled_shapley(
    worth: np.ndarray, truth: np.ndarray, budgets: Sequence[int], repeats: int, rng: np.random.Generator
) -> Scores:
    n = len(truth)
    result: Scores = {"permutations": {}, "kernel_shap": {}}
    for budget in budgets:
        orders = max(1, budget // (n - 1))
        estimates = {
            "permutations": (
                orders * (n - 1) + 2,
                [permutation_shapley(worth.__getitem__, n, orders, rng) for _ in range(repeats)],
            ),
            "kernel_shap": (
                min(2 * max(1, budget // 2) + 2, 2**n),
                [kernel_shap(worth.__getitem__, n, budget, rng) for _ in range(repeats)],
            ),
        }
        for name, (sets, values) in estimates.items():
            error = np.sqrt(((np.array(values) - truth) ** 2).mean(1)).mean()
            result[name][str(budget)] = {"sets": sets, "error": float(error)}
    return result
