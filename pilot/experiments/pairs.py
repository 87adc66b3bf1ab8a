"""Which counterfactual pairs count: those that the model answers right on both sides, with a clear difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.inputs.pairs import SPLITS, TokenPair
from pilot.sweep import SweepEngine

FEWEST = 2  # pairs that an interval can be drawn from


@dataclass(frozen=True)
class UsablePairs:
    """Pairs by edit and split, and how many were drawn, are right on both sides, and are usable.

    min_logit_gap   how far apart donor's and recipient's logit differences are at least
    """

    groups: Mapping[tuple[str, str], list[TokenPair]]
    counts: dict[str, dict[str, dict[str, int]]]
    min_logit_gap: float

    def enough(self, edit: str, split: str) -> bool:
        return len(self.groups.get((edit, split), ())) >= FEWEST

    def need(self, edit: str, split: str) -> list[TokenPair]:
        """The pairs of this edit and split. Raises PilotError that says what is lacking for fewer than FEWEST."""
        if self.enough(edit, split):
            return self.groups[edit, split]
        found = self.counts.get(edit, {}).get(split, {"drawn": 0, "both_right": 0, "usable": 0})
        group = f"{edit} pairs of the {split} split"
        if found["drawn"] < FEWEST:
            raise PilotError(
                f"there are {found['drawn']} {group}, and the experiment needs at least {FEWEST}: draw more"
            )
        if found["both_right"] < FEWEST:
            raise PilotError(
                f"the model answers {found['both_right']} of the {found['drawn']} {group} right on both sides, and the "
                f"experiment needs at least {FEWEST}: analyse a checkpoint that has learned the task"
            )
        raise PilotError(
            f"{found['usable']} of the {found['both_right']} {group} answered right have a logit difference gap "
            f"of {self.min_logit_gap:g} or more, and the experiment needs at least {FEWEST}: lower the least gap, or "
            "analyse another checkpoint"
        )


def usable_pairs(engine: SweepEngine, pairs: Sequence[TokenPair], min_logit_gap: float) -> UsablePairs:
    """The pairs that are answered right on both sides and have an LD gap of at least `min_logit_gap`.

    Raises PilotError without pairs, and for logits that are not finite.
    """
    return usable_of(PairExperiment(engine, pairs, "denoising"), min_logit_gap)


def usable_of(experiment: PairExperiment, min_logit_gap: float) -> UsablePairs:
    """Those of the pairs of an experiment, whatever its direction. See `usable_pairs`."""
    pairs = experiment.pairs
    right = experiment.both_right
    usable = right & (experiment.gap >= min_logit_gap)
    groups: dict[tuple[str, str], list[TokenPair]] = {}
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for edit in dict.fromkeys(pair.edit for pair in pairs):
        for split in SPLITS:
            member = np.array([(pair.edit, pair.split) == (edit, split) for pair in pairs])
            groups[edit, split] = [pairs[i] for i in np.flatnonzero(member & usable).tolist()]
            counts.setdefault(edit, {})[split] = {
                "drawn": int(member.sum()),
                "both_right": int((member & right).sum()),
                "usable": int((member & usable).sum()),
            }
    return UsablePairs(groups, counts, min_logit_gap)
