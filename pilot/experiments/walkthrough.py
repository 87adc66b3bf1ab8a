"""The repair experiment on one example, told on the console: the patch, its controls, and what they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pilot.errors import PilotError
from pilot.experiments.repair import RepairExperiment, Transplant, control_heads, match_donors
from pilot.interventions import Intervention, check_intervention

RULE = "=" * 60


class NoTransplant(PilotError):
    """No wrong answer has a right one to be repaired from."""


@dataclass(frozen=True, eq=False)
class Walkthrough:
    """How one repair experiment is told.

    checkpoint     the name of what is analysed
    descriptions   of each prompt, with its answer
    decode         the text of an answer's tokens
    """

    experiment: RepairExperiment
    checkpoint: str
    descriptions: Sequence[str]
    decode: Callable[[Sequence[int]], str]

    def tell(self, target: Intervention, control_head: int | None = None) -> None:
        """Print experiment, controls and summary for one target on the first transplant that fits.

        Raises PilotError if the target does not fit the model or the recipient, NoTransplant if there is none.
        """
        experiment = self.experiment
        model, prompts = experiment.engine.model, experiment.prompts
        _section("Activation Patching Experiment")
        print("Target: " + "; ".join(f"Layer {patch.layer}, Head {patch.head}" for patch in target))
        print(f"Checkpoint: {self.checkpoint}\nDevice: {next(model.parameters()).device}\n")
        print(f"Model loaded: {sum(weight.numel() for weight in model.parameters()) / 1e6:.2f}M parameters\n")
        print("Finding examples...")
        first = first_transplant(experiment)
        good, bad = prompts[first.donor], prompts[first.recipient]
        print(f"Good example: {self.descriptions[first.donor]}\nBad example:  {self.descriptions[first.recipient]}")
        if good.seq_len != bad.seq_len:
            print(f"No correct example has that length: the good one's activation is cut to {bad.seq_len} positions")
        print()
        check_intervention(target, model, bad.seq_len)
        control = control_heads(target, model, control_head)

        fixed = self._tell(f"EXPERIMENT 1: Patch {title(target)} from correct to incorrect example", first, target)
        control_fixed = second_fixed = None
        if control is None:
            _section("CONTROL 1: Another head of the same layer")
            print("No other head is left in the same layer: control 1 is left out.\n")
        else:
            control_fixed = self._tell(f"CONTROL 1: Patch {title(control)} instead", first, control)
        wrong = np.flatnonzero(~experiment.correct)
        second = match_donors(prompts, [first.recipient], wrong, per_recipient=1)
        if second:
            second_fixed = self._tell(
                f"CONTROL 2: Patch {title(target)} from incorrect to incorrect example", second[0], target
            )
        else:
            _section("CONTROL 2: From incorrect to incorrect example")
            print("No second incorrect example of this length or longer: control 2 is left out.\n")
        _summary(title(target), fixed, control_fixed, second_fixed)

    def _tell(self, heading: str, transplant: Transplant, target: Intervention) -> bool:
        """Print one patched run beside the unpatched ones; True if the patch fixes the recipient."""
        _section(heading)
        experiment = self.experiment
        donor_alone = Transplant(transplant.donor, transplant.donor)  # patched with nothing: the plain run
        plain = experiment.run([donor_alone, transplant], [()])
        patched = experiment.run([transplant], [target])
        answers = [*plain.given[0], patched.given[0, 0]]
        good, before, after = map(self.decode, answers)
        donor_right, recipient_right = plain.fixed[0]
        kind = "Good example" if experiment.correct[transplant.donor] else "Other bad example"
        true = {number: self.decode(experiment.prompts[number].answer) for number in transplant}
        wanted = true[transplant.recipient]
        print(f"{kind} prediction: {good} (true: {true[transplant.donor]}) [{_mark(donor_right)}]")
        print(f"Bad example (no patch): {before} (true: {wanted}) [{_mark(recipient_right)}]")
        if fixed := bool(patched.fixed[0, 0]):
            verdict = "FIXED"
        elif after == before:
            verdict = "NO CHANGE"
        else:
            verdict = "CHANGED, STILL WRONG"
        print(f"Bad example (patched):  {after} (true: {wanted}) [{verdict}]\n")
        return fixed


def title(target: Intervention) -> str:
    """`L2-H2`, `L2-H2 + L3-H1`, with ` at positions 5:10` where the patch is not everywhere."""
    heads = " + ".join(f"L{patch.layer}-H{patch.head}" for patch in target)
    start, stop = target[0].start, target[0].stop
    return heads if (start, stop) == (0, None) else f"{heads} at positions {start}:{'' if stop is None else stop}"


def first_transplant(experiment: RepairExperiment) -> Transplant:
    """The first wrong prompt with a right one of its length, or else of the next larger one.

    Raises NoTransplant if none is right, none is wrong, or no right one is long enough.
    """
    right, wrong = np.flatnonzero(experiment.correct), np.flatnonzero(~experiment.correct)
    accuracy = f"{experiment.metric} is {experiment.correct.mean():.1%} on {len(experiment.correct)} examples"
    if not len(right):
        raise NoTransplant(
            f"Could not find a correctly predicted example ({accuracy}): train longer (train.num_epochs), or pass a "
            "better --checkpoint"
        )
    if not len(wrong):
        raise NoTransplant(
            f"Could not find an incorrectly predicted example ({accuracy}): there is nothing to repair; pass a harder "
            "--test-path or an earlier --checkpoint"
        )
    found = match_donors(experiment.prompts, wrong, right, per_recipient=1)
    if not found:
        raise NoTransplant(
            f"Could not find a correctly predicted example as long as an incorrectly predicted one ({accuracy}): "
            "pass a larger --test-path"
        )
    lengths = [tuple(experiment.prompts[number].seq_len for number in transplant) for transplant in found]
    same_length = [transplant for transplant, (ours, its) in zip(found, lengths, strict=True) if ours == its]
    return (same_length or found)[0]


def _summary(name: str, fixed: bool, control_fixed: bool | None, second_fixed: bool | None) -> None:
    said = {True: "fixed", False: "not fixed", None: "left out"}
    _section("SUMMARY")
    print(f"{name}, correct -> incorrect: {said[fixed]}")
    print(f"Control 1, another head:     {said[control_fixed]}")
    print(f"Control 2, wrong -> wrong:   {said[second_fixed]}")
    if not fixed:
        print(f"[NO EFFECT] Patching {name} does not repair this example.\n")
    elif control_fixed or second_fixed:
        print(f"[PARTIAL] Patching {name} repairs this example, but so does a control: the effect is not specific.\n")
    else:
        print(f"[SUCCESS] Patching {name} repairs this example, and no control does.\n")


def _mark(right: bool) -> str:
    return "OK" if right else "WRONG"


def _section(heading: str) -> None:
    print(f"{RULE}\n{heading}\n{RULE}")
