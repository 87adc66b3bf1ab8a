"""Repair: head outputs of a correctly answered prompt put into a wrongly answered one.

The recipient is fixed if, patched, it gives its own right answer. Two controls: other heads, and donors that are
themselves answered wrongly. Answers are read under teacher forcing (pilot.inputs.prompts).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from pilot.errors import PilotError
from pilot.experiments.statistics import clustered_rate
from pilot.inputs.prompts import Prompt, gives_answer, last_positions, make_batch
from pilot.interventions import HeadPatch, Intervention, head_counts
from pilot.sweep import SweepEngine

Metric = Literal["exact_match", "final_token"]


class Transplant(NamedTuple):
    """Two prompts by their numbers: `recipient` is patched with head outputs of `donor`."""

    recipient: int
    donor: int


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What n interventions did to each of M transplants: (n, M) each.

    fixed     bool, the patched recipient gives its own right answer, by the experiment's metric
    adopted   bool, it gives the donor's right answer instead, every token of it; False for a donor that was cut
    given     the tokens that it predicts where its own answer stands, as tuples
    """

    fixed: np.ndarray
    adopted: np.ndarray
    given: np.ndarray


def match_donors(
    prompts: Sequence[Prompt],
    recipients: Sequence[int] | np.ndarray,
    donors: Sequence[int] | np.ndarray,
    per_recipient: int,
    rng: np.random.Generator | None = None,
) -> list[Transplant]:
    """Each recipient with up to `per_recipient` donors of its length, or else of the next larger one.

    A longer donor is cut to the recipient's length when it runs. Donors are drawn by `rng` without repetition, or
    come in their order without one; no prompt is its own donor. A recipient without a donor has no transplant.
    """
    by_length = defaultdict(list)
    for donor in donors:
        by_length[prompts[donor].seq_len].append(int(donor))
    transplants: list[Transplant] = []
    for recipient in map(int, recipients):
        for length in sorted(length for length in by_length if length >= prompts[recipient].seq_len):
            candidates = [donor for donor in by_length[length] if donor != recipient]
            if candidates:
                chosen = candidates if rng is None else rng.permutation(candidates)
                transplants += [Transplant(recipient, int(donor)) for donor in chosen[:per_recipient]]
                break
    return transplants


@dataclass(frozen=True, eq=False)
class RepairExperiment:
    """N prompts that a model answers, some right and some wrong.

    correct   (N,) bool, by `metric`
    metric    "exact_match": every token of the answer; "final_token": its last one alone
    """

    engine: SweepEngine
    prompts: Sequence[Prompt]
    correct: np.ndarray
    metric: Metric = "exact_match"

    def run(self, transplants: Sequence[Transplant], interventions: Sequence[Intervention]) -> Outcomes:
        """Run every intervention on every transplant. Raises PilotError for a patch outside a recipient's run."""
        shape = len(interventions), len(transplants)
        outcomes = Outcomes(np.zeros(shape, bool), np.zeros(shape, bool), np.empty(shape, dtype=object))
        by_length = defaultdict(list)
        for number, transplant in enumerate(transplants):
            by_length[self.prompts[transplant.recipient].seq_len].append(number)
        for seq, numbers in sorted(by_length.items()):
            own = make_batch(self.prompts, [transplants[i].recipient for i in numbers], seq)
            donors = make_batch(self.prompts, [transplants[i].donor for i in numbers], seq)
            whole = np.array([self.prompts[i].seq_len == seq for i in donors.index])
            read = last_positions(own.answer | donors.answer)
            targets, answer = own.answers_at(read)
            for i, predicted in enumerate(self.engine.predict(own.inputs, donors.inputs, interventions, read)):
                outcomes.fixed[i, numbers] = self._right(predicted, targets, answer)
                outcomes.adopted[i, numbers] = gives_answer(predicted, *donors.answers_at(read)).numpy() & whole
                for number, tokens, mask in zip(numbers, predicted, answer, strict=True):
                    outcomes.given[i, number] = tuple(tokens[mask].tolist())
        return outcomes

    def _right(self, predicted: Tensor, targets: Tensor, answer: Tensor) -> Tensor:
        if self.metric == "final_token":
            return predicted[:, -1] == targets[:, -1]
        return gives_answer(predicted, targets, answer)

    def rates(
        self,
        targets: Mapping[str, Intervention],
        lines: slice,
        donors_per_recipient: int,
        seed: int,
        progress: bool = False,
    ) -> dict[str, Any]:
        """How often each target's patch repairs a wrong answer, over every usable transplant of the chosen prompts.

        Recipients are the wrong answers; donors are right ones, and for the control other wrong ones. A rate's interval
        treats the transplants of one recipient as related (`clustered_rate`). Those too short for a target's positions
        are left out of its rate, and a target or control that has none is left out of the result: all of them where no
        wrong answer has a right one to go with. Raises PilotError if no prompts are chosen.
        """
        chosen = np.arange(len(self.prompts))[lines]
        if not len(chosen):
            raise PilotError("this half of the test lines has none: pass a larger --test-path, or --half all")
        right, wrong = chosen[self.correct[chosen]], chosen[~self.correct[chosen]]
        transplants = {
            kind: match_donors(self.prompts, wrong, donors, donors_per_recipient, np.random.default_rng(seed))
            for kind, donors in {"right_to_wrong": right, "wrong_to_wrong": wrong}.items()
        }
        repair: dict[str, dict[str, Any]] = {}
        for name, target in tqdm(targets.items(), unit="target", disable=None if progress else True):
            needed = max(patch.start + 1 if patch.stop is None else patch.stop for patch in target)
            for kind, found in transplants.items():
                usable = [pair for pair in found if self.prompts[pair.recipient].seq_len >= needed]
                if usable:
                    repair.setdefault(name, {})[kind] = self._rates(usable, target)
        return {
            "fused": int(self.engine.impl == "fused"),
            "examples": len(chosen),
            "accuracy": len(right) / len(chosen),
            "wrong_answers": len(wrong),
            "pairs": {kind: len(found) for kind, found in transplants.items()},
            "repair": {name: rates for name, rates in repair.items() if "right_to_wrong" in rates},
        }

    def _rates(self, transplants: Sequence[Transplant], target: Intervention) -> dict[str, Any]:
        outcomes = self.run(transplants, [target])
        recipient = np.array([transplant.recipient for transplant in transplants])
        return {
            "fixed": asdict(clustered_rate(outcomes.fixed[0], recipient)),
            "adopted": asdict(clustered_rate(outcomes.adopted[0], recipient)),
            "pairs": len(transplants),
        }


def control_heads(target: Intervention, model: object, first: int | None = None) -> Intervention | None:
    """As many other heads of a model (or of its config) in the same layers, at the same positions.

    For each head it is the next free one of its layer.

    first   the head to take instead; it must not be the target's own. None is returned if a layer has too few heads.
    """
    n_heads = head_counts(model)[1]
    taken = {(patch.layer, patch.head) for patch in target}
    controls: Intervention = ()
    for patch in target:
        candidates = [first] if first is not None else [(patch.head + i) % n_heads for i in range(1, n_heads)]
        free = [head for head in candidates if (patch.layer, head) not in taken]
        if not free:
            return None
        taken.add((patch.layer, free[0]))
        controls += (HeadPatch(patch.layer, free[0], patch.start, patch.stop),)
    return controls
