"""What each head does alone, in both directions: of all heads, or of all whose effect is large.

Shapes: n heads of the model, k heads patched on every pair, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pilot.errors import PilotError
from pilot.experiments.attribution.methods import integrated_gradients
from pilot.experiments.attribution.verifying import Verified, verify
from pilot.experiments.effects import PairExperiment
from pilot.experiments.parts import in_parts, measured_in_parts
from pilot.experiments.statistics import Estimate
from pilot.interventions import Intervention, single_heads
from pilot.runtime import distributed
from pilot.runtime.shards import Shards

STEPS = 5  # of integrated gradients along the inputs, the closest approximation for its cost: docs/attribution.md
APPROXIMATION_COST = 2 + 2 * STEPS  # forwards for each pair
PAIRS_PER_ROUND = 16  # of `verify`

Experiments = Mapping[str, PairExperiment]  # by direction, on the same pairs


@dataclass(frozen=True, eq=False)
class SingleEffects:
    """Of the heads that were patched on every pair.

    heads    k of them, in the order of `single_heads`
    change   (k, P) LD patched - LD recipient, by direction
    search   how they were found; None if they are all heads. "min_recovery" and "miss_rate": what was asked for;
             "forwards": patched ones and those of the approximation, over all pairs; "share": of the forwards that
             patching every head takes; "estimated", {direction: {head: {"value", "low", "high"}}}: recoveries of the
             other heads on these pairs, with bounds
    """

    heads: list[Intervention]
    change: dict[str, np.ndarray]
    search: dict[str, Any] | None = None


@dataclass(frozen=True)
class Parts:
    """Pairs are measured part by part, `size` pairs at a time.

    shards   share the parts among processes, and let a killed run resume; None: in this process, and nothing is kept
    """

    shards: Shards | None
    size: int

    def changes(self, experiment: PairExperiment, heads: Sequence[Intervention]) -> np.ndarray | None:
        """LD changes, (heads, P); None in all processes but the main one."""
        return self._measured(experiment, {"alone": heads}, lambda part: part.changes(heads))

    def approximation(self, experiment: PairExperiment) -> np.ndarray | None:
        """LD changes by integrated gradients, (n, P); None in all processes but the main one."""
        return self._measured(
            experiment, {"ig_inputs": STEPS}, lambda part: integrated_gradients(part, STEPS, "inputs").change
        )

    def _measured(
        self, experiment: PairExperiment, what: Mapping[str, Any], measure: Callable[[PairExperiment], np.ndarray]
    ) -> np.ndarray | None:
        def change(pairs: list[int]) -> dict[str, Tensor]:
            return {"change": torch.from_numpy(measure(experiment.take(np.array(pairs))))}

        parts = in_parts(range(len(experiment)), self.size)
        measured = measured_in_parts(experiment, parts, change, self.shards, what)
        return None if measured is None else measured["change"]


def exact_effects(experiments: Experiments, parts: Parts) -> SingleEffects | None:
    """Every head is patched on every pair. None in all processes but the main one."""
    heads, changes = _heads(experiments), {}
    for direction, experiment in experiments.items():
        print(f"{direction}: {len(heads)} heads alone on {len(experiment)} select pairs", flush=True)
        change = parts.changes(experiment, heads)
        if change is not None:
            changes[direction] = change
    return SingleEffects(heads, changes) if changes else None


def verified_effects(
    experiments: Experiments, min_recovery: float, miss_rate: float, seed: int, parts: Parts
) -> SingleEffects | None:
    """Those heads that recover more than `min_recovery` in size in either direction, found as `verify` does.

    miss_rate   the probability that any of them is missed

    None in all processes but the main one; they all patch the same heads. Raises PilotError if there is no such head.
    """
    heads, rng = _heads(experiments), np.random.default_rng(seed)
    verified = {
        direction: _verified(experiment, heads, min_recovery, miss_rate / len(experiments), rng, parts)
        for direction, experiment in experiments.items()
    }
    found = np.unique(np.concatenate([each.found for each in verified.values()]))
    if not len(found):
        raise PilotError(f"no head recovers more than {min_recovery:g}: lower min_recovery, or take the method exact")
    changes, estimated, forwards, full = {}, {}, 0, 0
    for direction, experiment in experiments.items():
        known = verified[direction]
        change = np.empty((len(found), len(experiment)))
        here = np.isin(found, known.found)
        change[here] = known.change
        if not here.all():  # found in the other direction
            change[~here] = _in_all_processes(parts.changes(experiment, [heads[i] for i in found[~here]]))
        changes[direction] = change
        estimated[direction] = {
            head.name: _recovery(known.estimate[i], experiment) for i, (head,) in enumerate(heads) if i not in found
        }
        forwards += known.patched + change[~here].size + APPROXIMATION_COST * len(experiment)
        full += len(heads) * len(experiment)
    search = {
        "min_recovery": min_recovery,
        "miss_rate": miss_rate,
        "forwards": forwards,
        "share": forwards / full,
        "estimated": estimated,
    }
    print(
        f"{len(found)} of {len(heads)} heads recover more than {min_recovery:g} in size; finding them took {forwards} "
        f"forwards, {forwards / full:.0%} of patching every head",
        flush=True,
    )
    return SingleEffects([heads[i] for i in found], changes, search) if distributed.is_main() else None


def _verified(
    experiment: PairExperiment,
    heads: Sequence[Intervention],
    min_recovery: float,
    miss_rate: float,
    rng: np.random.Generator,
    parts: Parts,
) -> Verified:
    """In every process."""
    print(f"{experiment.direction}: {len(heads)} heads approximated on {len(experiment)} select pairs", flush=True)
    approximation = _in_all_processes(parts.approximation(experiment))

    def changes(numbers: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        print(f"{experiment.direction}: {len(numbers)} heads alone on {len(pairs)} of them", flush=True)
        return _in_all_processes(parts.changes(experiment.take(pairs), [heads[i] for i in numbers]))

    return verify(changes, approximation, min_recovery * float(experiment.gap.mean()), miss_rate, rng, PAIRS_PER_ROUND)


def _recovery(change: Estimate, experiment: PairExperiment) -> dict[str, float]:
    gap = float(experiment.gap.mean())
    return {name: value / gap for name, value in asdict(change).items()}


def _in_all_processes(result: np.ndarray | None) -> np.ndarray:
    return cast(np.ndarray, distributed.from_main(lambda: result))


def _heads(experiments: Experiments) -> list[Intervention]:
    return single_heads(next(iter(experiments.values())).engine.model)
