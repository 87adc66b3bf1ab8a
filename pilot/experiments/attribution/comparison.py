"""All approximations against exact patching: of single heads, of sets of heads, and on planted circuits.

Shapes: n heads, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pilot.experiments.attribution.agreement import agreement, recovery
from pilot.experiments.attribution.methods import Attribution, Method, attribution_methods, exact
from pilot.experiments.attribution.sets import (
    additive,
    greedy_sets,
    kernel_shap,
    permutation_shapley,
    regret,
    top_sets,
)
from pilot.experiments.effects import PairExperiment
from pilot.experiments.planted.circuits import random_circuit
from pilot.experiments.planted.kinds import Kind
from pilot.experiments.planted.measurements import plant_and_pair
from pilot.experiments.planted.scores import SIZES
from pilot.experiments.shapley import best_of_each_size, shapley
from pilot.experiments.subsets import SubsetEffects

EXACT = "exact"
Scores = dict[str, Any]


def attributions(experiment: PairExperiment, steps: Sequence[int]) -> dict[str, Attribution]:
    """By every method, and "exact"."""
    methods: dict[str, Method] = {**attribution_methods(steps), EXACT: exact}
    return {name: method(experiment) for name, method in methods.items()}


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
    seed: int,
) -> Scores:
    """What scores of single heads, and some of the sets, say about all 2**n sets.

    found         of the heads of the sets, on the pairs of `chosen_on`
    measured_on   other pairs, by which chosen sets are judged

    predicted   of each score, summed over the members of a set: the root mean square "error" of the recovery over all
                sets, and the "worst" error
    chosen      of each way to choose a set of every size: the recovery lost, on other pairs, against the best set
                there, as the "mean" over the sizes 1 to n - 1 and the "worst" of them. A set is chosen by the largest
                scores, one head at a time ("greedy"), or as the best of all sets ("exhaustive")
    shapley     of each estimator and budget: the number of "sets" that it takes and its root mean square "error" over
                the heads, the mean of `repeats` draws
    """
    n, worth, held_out = len(chosen_on.heads), chosen_on.mean_recovery, measured_on.mean_recovery
    truth = shapley(worth)
    scores = {name: recovery(change, chosen_on.gap) for name, (change, _) in found.items()} | {"shapley": truth}
    chosen = {name: top_sets(score) for name, score in scores.items()} | {
        "greedy": greedy_sets(worth.__getitem__, n),
        "exhaustive": best_of_each_size(worth),
    }
    return {
        "predicted": {name: _errors(additive(score) - worth) for name, score in scores.items()},
        "chosen": {
            name: {"mean": float(lost[1:-1].mean()), "worst": float(lost.max())}
            for name, lost in ((name, regret(held_out, masks)) for name, masks in chosen.items())
        },
        "shapley": _sampled_shapley(worth, truth, budgets, repeats, np.random.default_rng(seed)),
    }


def _errors(error: np.ndarray) -> dict[str, float]:
    return {"error": float(np.sqrt((error**2).mean())), "worst": float(np.abs(error).max())}


def _sampled_shapley(
    worth: np.ndarray, truth: np.ndarray, budgets: Sequence[int], repeats: int, rng: np.random.Generator
) -> Scores:
    n = len(truth)
    result: Scores = {"permutations": {}, "kernel_shap": {}}
    for budget in budgets:
        orders, halves = max(1, budget // (n - 1)), max(1, budget // 2)
        estimates = {
            "permutations": (
                orders * (n - 1) + 2,
                [permutation_shapley(worth.__getitem__, n, orders, rng) for _ in range(repeats)],
            ),
            "kernel_shap": (2 * halves + 2, [kernel_shap(worth.__getitem__, n, budget, rng) for _ in range(repeats)]),
        }
        for name, (sets, values) in estimates.items():
            error = np.sqrt(((np.array(values) - truth) ** 2).mean(1)).mean()
            result[name][str(budget)] = {"sets": sets, "error": float(error)}
    return result


class Sight(NamedTuple):
    """How a method sees the heads of planted circuits: those that exactly recover more than a least effect, in size
    (effective), those of them that the method has so too, with the right sign (seen), and heads below the least effect
    that it has above (false).
    """

    effective: int
    seen: int
    false: int

    @classmethod
    def of(cls, found: np.ndarray, truth: np.ndarray, min_effect: float) -> Sight:
        """Recoveries of the same heads, (n,) each."""
        large, claimed = np.abs(truth) > min_effect, np.abs(found) > min_effect
        seen = large & claimed & (np.sign(found) == np.sign(truth))
        return cls(int(large.sum()), int(seen.sum()), int((claimed & ~large).sum()))

    def __add__(self, other: Sight) -> Sight:  # type: ignore[override]
        return Sight(*map(sum, zip(self, other, strict=True)))


def sight(
    kind: Kind, seed: Sequence[int], n_pairs: int, steps: Sequence[int], min_effect: float, impl: str
) -> dict[str, dict[str, Sight]]:
    """Of one circuit of this kind in a random place: by direction and method.

    It is planted without noise, so that what a method does not see it is blind to.
    """
    rng = np.random.default_rng(seed)
    circuit = random_circuit(kind, *SIZES[rng.integers(len(SIZES))], rng)
    result = {}
    for direction, experiment in plant_and_pair(circuit, n_pairs, 0.0, rng, impl).items():
        recoveries = {
            name: recovery(change, experiment.gap) for name, (change, _) in attributions(experiment, steps).items()
        }
        result[direction] = {name: Sight.of(value, recoveries[EXACT], min_effect) for name, value in recoveries.items()}
    return result


def total_sight(circuits: Iterable[dict[str, dict[str, Sight]]]) -> dict[str, dict[str, dict[str, int]]]:
    """Added up over circuits: the counts of Sight by direction and method."""
    totals: dict[str, dict[str, Sight]] = {}
    for circuit in circuits:
        for direction, methods in circuit.items():
            of_direction = totals.setdefault(direction, {})
            for name, seen in methods.items():
                of_direction[name] = of_direction.get(name, Sight(0, 0, 0)) + seen
    return {
        direction: {name: seen._asdict() for name, seen in methods.items()} for direction, methods in totals.items()
    }
