"""All sets of heads, patched one after the other: exact Shapley values, interactions, and the best set of every size.

A set's worth is its recovery: the LD change that patching it brings, in units of the LD gap
(pilot.experiments.effects). Heads are the players, so their Shapley values add up to the recovery of all heads, which
is 1.

Shapes: n heads, 2**n sets, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from pilot.arithmetic.pairs import CounterfactualPair
from pilot.errors import PilotError
from pilot.experiments.effects import logit_difference_changes
from pilot.experiments.pairs import paired_runs
from pilot.experiments.shapley import best_of_each_size, shapley, shapley_interactions
from pilot.experiments.statistics import Estimates, bootstrap_ratio
from pilot.interventions import Intervention, head_subsets
from pilot.models.transformer import PilotTransformer
from pilot.runtime.shards import Shards

MOST_HEADS = 20  # a million sets
PAIRS_PER_CHUNK = 32  # what a kill can cost, and what a process computes at a time: some seconds for 2**16 sets


@dataclass(frozen=True)
class Game:
    """What every set of heads is worth on every pair.

    heads    number i of `change` is the set of the heads whose bit is set in i
    change   (2**n, P) float32, LD patched - LD recipient
    gap      (P,), LD donor - LD recipient
    """

    heads: Intervention
    change: np.ndarray
    gap: np.ndarray

    def recovery(self, sets: Sequence[int], resamples: int, rng: np.random.Generator) -> Estimates:
        """Of these sets, with bootstrap intervals over the pairs."""
        return bootstrap_ratio(self.change[list(sets)], self.gap, resamples, rng)

    def shapley(self, resamples: int, rng: np.random.Generator) -> Estimates:
        """Of each head: (n,)."""
        return bootstrap_ratio(shapley(self.change), self.gap, resamples, rng)

    def interactions(self, resamples: int, rng: np.random.Generator) -> Estimates:
        """Pairwise Shapley interaction of each two heads: (n, n)."""
        return bootstrap_ratio(shapley_interactions(self.change), self.gap, resamples, rng)

    @property
    def mean_recovery(self) -> np.ndarray:
        """Of each set: (2**n,)."""
        return self.change.sum(1, dtype=np.float64) / self.gap.sum()


def play(
    model: PilotTransformer,
    pairs: Sequence[CounterfactualPair],
    direction: str,
    heads: Intervention,
    impl: str,
    shards: Shards | None = None,
) -> Game | None:
    """Patch every set of the heads on every pair. Raises PilotError for more than MOST_HEADS heads.

    With `shards` the processes of the group share the work, and a killed sweep goes on where it was; all but the main
    one return None.
    """
    if len(heads) > MOST_HEADS:
        raise PilotError(
            f"{len(heads)} heads have 2**{len(heads)} sets, too many: set counterfactual.exhaustive to false"
        )
    sets = head_subsets(heads)

    def changes(chunk: Sequence[CounterfactualPair]) -> dict[str, torch.Tensor]:
        change, gap = logit_difference_changes(model, chunk, direction, sets, impl)
        return {"change": torch.from_numpy(change), "gap": torch.from_numpy(gap)}

    # Runs of one length that differ from the same position on stand together: in a chunk they share work.
    order = np.concatenate([runs.index for runs in paired_runs(pairs, direction)])
    members = np.split(order, range(PAIRS_PER_CHUNK, len(order), PAIRS_PER_CHUNK))
    chunks = [[pairs[i] for i in index] for index in members]
    parameters = {"heads": heads, "direction": direction, "impl": impl}
    results = map(changes, chunks) if shards is None else shards.results(parameters, chunks, changes)
    if results is None:
        return None
    change, gap = np.empty((len(sets), len(pairs)), dtype=np.float32), np.empty(len(pairs))
    for index, result in zip(members, results, strict=True):
        change[:, index], gap[index] = result["change"], result["gap"]
    return Game(heads, change, gap)


def redundant_with(interactions: Estimates, least: float) -> list[int | None]:
    """For each head the other one that it is most redundant with: number of that head, or None.

    It is redundant where their interaction is -`least` or below and its interval below zero: the two do the same work,
    as in an OR.
    """
    partners = interactions.value.argmin(1)
    return [
        int(partner) if interactions.value[head, partner] <= -least and interactions.high[head, partner] < 0 else None
        for head, partner in enumerate(partners)
    ]


def best_sets(chosen_on: Game, measured_on: Game, ranked: Intervention, resamples: int, seed: int) -> list[dict]:
    """Recovery by number of heads: rows of size, set, heads, value, low, high.

    set   "best": the set worth most on the pairs of `chosen_on`; "ablation": the first heads of `ranked`; "average":
          the mean of all sets of that size, which has no interval. All are measured on the pairs of `measured_on`
    """
    heads = measured_on.heads
    n = len(heads)
    sets = {
        "best": best_of_each_size(chosen_on.mean_recovery).tolist(),
        "ablation": np.cumsum([0, *(1 << heads.index(head) for head in ranked)]).tolist(),
    }
    rows = []
    for name, masks in sets.items():
        recovery = measured_on.recovery(masks, resamples, np.random.default_rng(seed))
        for size, mask in enumerate(masks):
            names = "+".join(head.name for i, head in enumerate(heads) if mask >> i & 1)
            rows.append({"size": size, "set": name, "heads": names, **asdict(recovery[size])})
    worth, sizes = measured_on.mean_recovery, np.bitwise_count(np.arange(2**n))
    rows += [{"size": size, "set": "average", "value": float(worth[sizes == size].mean())} for size in range(n + 1)]
    return rows
