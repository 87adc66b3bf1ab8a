"""All sets of heads, patched one after the other: exact Shapley values, interactions, and the best set of every size.

A set's worth is its recovery: the LD change that patching it brings, in units of the LD gap
(pilot.experiments.effects). Heads are the players, so their Shapley values add up to the recovery of all heads, which
is 1.

Shapes: n heads, 2**n sets, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.experiments.shapley import best_of_each_size, shapley, shapley_interactions
from pilot.experiments.statistics import Estimates, bootstrap_ratio
from pilot.interventions import Intervention, head_subsets
from pilot.runtime.shards import Shards

MOST_HEADS = 20  # a million sets
PAIRS_PER_CHUNK = 32  # what a kill can cost, and what a process computes at a time: some seconds for 2**16 sets


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
        return np.asarray(self.change.sum(1, dtype=np.float64) / self.gap.sum())


def measure_subsets(
    experiment: PairExperiment, heads: Intervention, shards: Shards | None = None
) -> SubsetEffects | None:
    """Patch every set of the heads on every pair. Raises PilotError for more than MOST_HEADS heads.

    With `shards` the processes of the group share the work, and a killed sweep resumes; all but the main process
    return None.
    """
    if len(heads) > MOST_HEADS:
        raise PilotError(
            f"{len(heads)} heads have 2**{len(heads)} sets, too many: choose {MOST_HEADS} heads at most, or, in "
            "params.yaml, set counterfactual.exhaustive to false"
        )
    sets = head_subsets(heads)

    def changes(pairs: list[int]) -> dict[str, torch.Tensor]:
        return {"change": torch.from_numpy(experiment.take(np.array(pairs)).changes(sets))}

    order = _sharing_order(experiment)
    chunks = [order[start : start + PAIRS_PER_CHUNK] for start in range(0, len(order), PAIRS_PER_CHUNK)]
    parameters = {
        "heads": heads,
        "direction": experiment.direction,
        "impl": experiment.engine.impl,
        "pairs": [(pair.clean, pair.corrupt) for pair in experiment.pairs],
    }
    results = map(changes, chunks) if shards is None else shards.results(parameters, chunks, changes)
    if results is None:
        return None
    change = np.empty((len(sets), len(experiment)), dtype=np.float32)
    for pairs, result in zip(chunks, results, strict=True):
        change[:, pairs] = result["change"]
    return SubsetEffects(heads, change, experiment.gap)


def _sharing_order(experiment: PairExperiment) -> list[int]:
    """Numbers of the pairs; those of one length that differ from the same position on share work, so stand together."""
    runs = [
        (len(donor.ids) + len(donor.answer), pair.first_difference)
        for pair, donor in zip(experiment.pairs, experiment.donors, strict=True)
    ]
    return sorted(range(len(runs)), key=lambda i: runs[i])


def best_sets(
    chosen_on: SubsetEffects, measured_on: SubsetEffects, ranked: Intervention, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Recovery by number of heads: rows of size, set, heads, value, low, high, optimism.

    set        "best": the set worth most on the pairs of `chosen_on`; "ablation": the first heads of `ranked`;
               "average": the mean of all sets of that size, which has no interval. All are measured on the pairs of
               `measured_on`
    optimism   of "best": how much more it is worth on the pairs that it was chosen on, the winner's curse that
               measuring on others removes
    """
    heads = measured_on.heads
    sets = {
        "best": best_of_each_size(chosen_on.mean_recovery).tolist(),
        "ablation": np.cumsum([0, *(1 << heads.index(head) for head in ranked)]).tolist(),
    }
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
