"""When heads begin to matter: the same measures of every head at every checkpoint that training kept.

ablation_paren   exact match lost on parenthesised lines when the head's output is its mean (pilot.experiments.ablation)
denoising        recovery when it is patched from the clean run into the corrupt one (pilot.experiments.effects)
noising          recovery when it is patched from the corrupt run into the clean one

All three are 0 for a head that does nothing. Recovery, a ratio of means over the pairs, is a share of the logit
difference gap that the model has at that epoch; while that gap is near zero, recovery is undefined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from pilot.errors import PilotError
from pilot.experiments.ablation import ablated_correct
from pilot.experiments.donors import mean_donor
from pilot.experiments.effects import PairExperiment
from pilot.inputs.pairs import DIRECTIONS, TokenPair
from pilot.inputs.prompts import Prompt
from pilot.interventions import single_heads
from pilot.models.checkpoint import read_checkpoint
from pilot.sweep import SweepEngine

MEASURES = ("ablation_paren", *DIRECTIONS)


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint of one epoch, and its exact match on validation lines of each kind."""

    epoch: int
    path: Path
    val: dict[str, float]


def read_snapshots(folder: Path | str) -> list[Snapshot]:
    """The checkpoints in a run's folder, one of each epoch, first to last; best and last count by their epochs.

    Raises PilotError if there are none, or for one that does not say its epoch and accuracies.
    """
    snapshots: dict[int, Snapshot] = {}
    for path in sorted(Path(folder).glob("checkpoint_*.pt"), reverse=True):  # epoch_NNN takes the place of best, last
        content = read_checkpoint(path)
        try:
            accuracies = content["metrics"]["val"].items()
            epoch, val = int(content["epoch"]), {kind: float(accuracy) for kind, accuracy in accuracies}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PilotError(
                f"{path}: has no epoch and accuracies ({error!r}); train it with: dvc repro train"
            ) from None
        snapshots[epoch] = Snapshot(epoch, path, val)
    if not snapshots:
        raise PilotError(f"{folder}: no checkpoints; train with: dvc repro train")
    return [snapshots[epoch] for epoch in sorted(snapshots)]


def measure_heads(
    engine: SweepEngine,
    val: Sequence[Prompt],
    lines: Sequence[Prompt],
    pairs: Sequence[TokenPair],
    min_logit_gap: float,
) -> dict[str, Any]:
    """All measures of all heads: a dict by measure and head name, with `logit_gap`, the mean over the pairs.

    val     prompts that heads' mean outputs are taken over
    lines   parenthesised prompts that are ablated
    pairs   counterfactual pairs that are patched, right or wrong as their answers may be; there may be none

    Recovery is left out where the mean gap is below `min_logit_gap`, and with it where there are no pairs.
    """
    heads = single_heads(engine.model.config)
    names = [head.name for (head,) in heads]
    accuracy = ablated_correct(engine, lines, [(), *heads], mean_donor(engine.model, val)).mean(1)
    measured: dict[str, Any] = {"ablation_paren": dict(zip(names, (accuracy[0] - accuracy[1:]).tolist(), strict=True))}
    for direction in DIRECTIONS if pairs else ():
        experiment = PairExperiment(engine, pairs, direction)
        measured["logit_gap"] = float(experiment.gap.mean())  # the same in both directions
        if measured["logit_gap"] >= min_logit_gap:
            measured[direction] = dict(zip(names, experiment.recovery(heads).tolist(), strict=True))
    return measured


def begins_to_matter(measured: Mapping[int, Mapping[str, Any]], least: float) -> dict[str, dict[str, int]]:
    """The first epoch from which a measure of a head stays above `least`, by measure and head.

    measured   what `measure_heads` gave, by epoch

    Where a measure is undefined it counts as 0. A head that is not above `least` at the last epoch is left out.
    """
    heads = measured[max(measured)]["ablation_paren"]
    begins: dict[str, dict[str, int]] = {}
    for measure in MEASURES:
        for head in heads:
            curve = {epoch: values.get(measure, {}).get(head, 0.0) for epoch, values in measured.items()}
            if above := _stays_above(curve, least):
                begins.setdefault(measure, {})[head] = min(above)
    return begins


def _stays_above(curve: Mapping[int, float], least: float) -> list[int]:
    """The epochs at and after which all values are above `least`."""
    return [*takewhile(lambda epoch: curve[epoch] > least, sorted(curve, reverse=True))]
