"""All sets of heads, patched one after the other: exact Shapley values, interactions, and the best set of every size.

A set's worth is its recovery: the LD change that patching it brings, in units of the LD gap
(pilot.experiments.effects). Heads are the players, so their Shapley values add up to the recovery of all heads, which
is 1.

Shapes: n heads, 2**n sets, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.experiments.parts import in_parts, measured_in_parts
from pilot.experiments.shapley import best_of_each_size, shapley, shapley_interactions
from pilot.experiments.statistics import Estimates, bootstrap_ratio, ratio_of_means
from pilot.interventions import Intervention, head_subsets
from pilot.runtime.shards import Shards

MOST_HEADS = 20  # a million sets
PAIRS_PER_PART = 32  # what a kill can cost, and what a process computes at a time: some seconds for 2**16 sets


@dataclass(frozen=True, eq=False)
class SubsetEffects:
    """What every set of heads does to every pair.

    heads    number i of `change` is the set of the heads whose bit is set in i
    change   (2**n, P) float32, LD patched - LD recipient
    gap      (P,), LD donor - LD recipient
    """

    heads: Intervention
    change: np.ndarray
    gap: np.ndarray

    def take(self, index: np.ndarray) -> SubsetEffects:
        """On the pairs of these numbers."""
        return SubsetEffects(self.heads, self.change[:, index], self.gap[index])

    def recovery(self, sets: Sequence[int], resamples: int, rng: np.random.Generator) -> Estimates:
        """Of these sets, with bootstrap intervals over the pairs."""
        return bootstrap_ratio(self.change[list(sets)], self.gap, resamples, rng)

    def shapley(self, resamples: int, rng: np.random.Generator) -> Estimates:
        """Of each head: (n,)."""
        return bootstrap_ratio(shapley(self.change), self.gap, resamples, rng)

    def interactions(self, resamples: int, rng: np.random.Generator) -> Estimates:
        """Shapley interaction of each two heads: (n, n)."""
        return bootstrap_ratio(self.pair_interactions, self.gap, resamples, rng)

    @cached_property
    def pair_interactions(self) -> np.ndarray:
        """Shapley interaction of each two heads on every pair of prompts, in units of LD: (n, n, P)."""
        return shapley_interactions(self.change)

    @cached_property
    def mean_recovery(self) -> np.ndarray:
        """Of each set: (2**n,)."""
        return ratio_of_means(self.change, self.gap)


def measure_subsets(
    experiment: PairExperiment,
    heads: Intervention,
    shards: Shards | None = None,
    pairs_per_part: int | None = None,
) -> SubsetEffects | None:
    """Patch every set of the heads on every pair. Raises PilotError for more than MOST_HEADS heads.

    With `shards` the processes of the group share the work, `pairs_per_part` pairs at a time (None: PAIRS_PER_PART),
    and a killed sweep resumes; all but the main process return None.
    """
    if len(heads) > MOST_HEADS:
        raise PilotError(
            f"{len(heads)} heads have 2**{len(heads)} sets, too many: choose {MOST_HEADS} heads at most, or, in "
            "params.yaml, set counterfactual.exhaustive to false"
        )
    sets = head_subsets(heads)

    def changes(pairs: list[int]) -> dict[str, torch.Tensor]:
        return {"change": torch.from_numpy(experiment.take(np.array(pairs)).changes(sets))}

    parts = in_parts(_sharing_order(experiment), pairs_per_part or PAIRS_PER_PART)
    measured = measured_in_parts(experiment, parts, changes, shards, {"sets of": heads})
    return None if measured is None else SubsetEffects(heads, measured["change"], experiment.gap)


def _sharing_order(experiment: PairExperiment) -> list[int]:
    """Numbers of the pairs; those of one length that differ from the same position on share work, so stand together."""
    runs = [
        (len(donor.ids) + len(donor.answer), pair.first_difference)
        for pair, donor in zip(experiment.pairs, experiment.donors, strict=True)
    ]
    return sorted(range(len(runs)), key=lambda i: runs[i])


def best_sets(
    chosen_on: SubsetEffects,
    measured_on: SubsetEffects,
    rankings: Mapping[str, Intervention],
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Recovery by number of heads: rows of size, set, heads, value, low, high, optimism.

    rankings   all heads in some order, by the name of the order
    set        "best": the set worth most on the pairs of `chosen_on`; the name of a ranking: its first heads;
               "average": the mean of all sets of that size, which has no interval. All are measured on the pairs of
               `measured_on`
    optimism   of "best": how much more it is worth on the pairs that it was chosen on, the winner's curse that
               measuring on others removes
    """
    heads = measured_on.heads
    sets = {"best": best_of_each_size(chosen_on.mean_recovery).tolist()}
    sets |= {name: _first_of(ranking, heads) for name, ranking in rankings.items()}
    rows: list[dict[str, Any]] = []
    for name, masks in sets.items():
        recovery = measured_on.recovery(masks, resamples, np.random.default_rng(seed))
        for size, mask in enumerate(masks):
            names = "+".join(head.name for i, head in enumerate(heads) if mask >> i & 1)
            rows.append({"size": size, "set": name, "heads": names, **asdict(recovery[size])})
            if name == "best":
                rows[-1]["optimism"] = float(chosen_on.mean_recovery[mask] - recovery.value[size])
    worth, sizes = measured_on.mean_recovery, np.bitwise_count(np.arange(2 ** len(heads)))
    rows += [
        {"size": size, "set": "average", "value": float(worth[sizes == size].mean())} for size in range(len(heads) + 1)
    ]
    return rows


def best_sets_and_sums(
    chosen_on: SubsetEffects, measured_on: SubsetEffects, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """`best_sets` against what patching one head at a time tells, with two more kinds of `set`.

    "single"   the heads of largest effect alone, on the pairs of `chosen_on`
    "sum"      the same heads, and the sum of what each recovers alone: what the set would recover if heads did not
               interact
    """
    heads = measured_on.heads
    alone = [1 << i for i in range(len(heads))]
    order = np.argsort(-chosen_on.mean_recovery[alone], kind="stable")
    ranking = tuple(heads[i] for i in order)
    rows = best_sets(chosen_on, measured_on, {"single": ranking}, resamples, seed)
    change = measured_on.change[alone][order].cumsum(0, dtype=np.float64)
    sums = bootstrap_ratio(np.vstack([0 * change[:1], change]), measured_on.gap, resamples, np.random.default_rng(seed))
    single = [row for row in rows if row["set"] == "single"]
    return rows + [row | {"set": "sum"} | asdict(sums[row["size"]]) for row in single]


def _first_of(ranking: Intervention, heads: Intervention) -> list[int]:
    """The numbers of the sets of the first 0, 1, 2, ... heads of a ranking."""
    numbers: list[int] = np.cumsum([0, *(1 << heads.index(head) for head in ranking)]).tolist()
    return numbers
