"""The guide's experiment on one pair of examples, told on the console."""

from __future__ import annotations

import numpy as np

from pilot.arithmetic.examples import Example
from pilot.errors import PilotError
from pilot.experiments.repair import Pair, Setting, control_heads, find_pairs, run_pairs
from pilot.interventions import Intervention, check_intervention

RULE = "=" * 60


class NoPair(PilotError):
    """No wrong answer has a right one to be repaired from."""


def title(target: Intervention) -> str:
    """`L2-H2`, `L2-H2 + L3-H1`, with ` at positions 5:10` where the patch is not everywhere."""
    heads = " + ".join(f"L{patch.layer}-H{patch.head}" for patch in target)
    start, stop = target[0].start, target[0].stop
    return heads if (start, stop) == (0, None) else f"{heads} at positions {start}:{'' if stop is None else stop}"


def narrate(setting: Setting, target: Intervention, control_head: int | None = None) -> None:
    """Print experiment, controls and summary for one target on the first pair that fits.

    Raises PilotError if the target does not fit the model or the pair, NoPair if there is no pair.
    """
    model, examples = setting.model, setting.examples
    _section("Activation Patching Experiment")
    print("Target: " + "; ".join(f"Layer {patch.layer}, Head {patch.head}" for patch in target))
    print(f"Checkpoint: {setting.checkpoint}\nDevice: {next(model.parameters()).device}\n")
    print(f"Model loaded: {model.n_parameters / 1e6:.2f}M parameters\n")
    print("Finding examples...")
    pair = first_pair(setting)
    good, bad = examples[pair.donor], examples[pair.recipient]
    print(f"Good example: {_described(good)}\nBad example:  {_described(bad)}")
    if good.seq_len != bad.seq_len:
        print(f"No correct example has that length: the good one's activation is cut to {bad.seq_len - 1} positions")
    print()
    check_intervention(target, model.config, bad.seq_len - 1)
    control = control_heads(target, model.config, control_head)

    fixed = _experiment(setting, f"EXPERIMENT 1: Patch {title(target)} from correct to incorrect example", pair, target)
    control_fixed = second_fixed = None
    if control is None:
        _section("CONTROL 1: Another head of the same layer")
        print("No other head is left in the same layer: control 1 is left out.\n")
    else:
        control_fixed = _experiment(setting, f"CONTROL 1: Patch {title(control)} instead", pair, control)
    wrong = np.flatnonzero(~setting.correct)
    second = find_pairs(examples, [pair.recipient], wrong, per_recipient=1)
    if second:
        second_fixed = _experiment(
            setting, f"CONTROL 2: Patch {title(target)} from incorrect to incorrect example", second[0], target
        )
    else:
        _section("CONTROL 2: From incorrect to incorrect example")
        print("No second incorrect example of this length or longer: control 2 is left out.\n")
    _summary(title(target), fixed, control_fixed, second_fixed)


def first_pair(setting: Setting) -> Pair:
    """The first wrong example with a right one of its length, or else of the next larger one.

    Raises NoPair if none is right, none is wrong, or no right one is long enough.
    """
    right, wrong = np.flatnonzero(setting.correct), np.flatnonzero(~setting.correct)
    accuracy = f"{setting.metric} is {setting.correct.mean():.1%} on {len(setting.correct)} examples"
    if not len(right):
        raise NoPair(
            f"Could not find a correctly predicted example ({accuracy}): train longer (train.num_epochs), or pass a "
            "better --checkpoint"
        )
    if not len(wrong):
        raise NoPair(
            f"Could not find an incorrectly predicted example ({accuracy}): there is nothing to repair; pass a harder "
            "--test-path or an earlier --checkpoint"
        )
    pairs = find_pairs(setting.examples, wrong, right, per_recipient=1)
    if not pairs:
        raise NoPair(
            f"Could not find a correctly predicted example as long as an incorrectly predicted one ({accuracy}): "
            "pass a larger --test-path"
        )
    same_length = [p for p in pairs if setting.examples[p.donor].seq_len == setting.examples[p.recipient].seq_len]
    return (same_length or pairs)[0]


def _experiment(setting: Setting, heading: str, pair: Pair, target: Intervention) -> bool:
    """Print one patched run beside the unpatched ones; True if the patch fixes the recipient."""
    _section(heading)
    examples = setting.examples
    donor_alone = Pair(pair.donor, pair.donor)  # patched with nothing: the plain run
    plain = run_pairs(setting, [donor_alone, pair], [()])
    patched = run_pairs(setting, [pair], [target])
    good, bad = examples[pair.donor], examples[pair.recipient]
    kind = "Good example" if setting.correct[pair.donor] else "Other bad example"
    before, after = plain.fixed[0], patched.fixed[0, 0]
    print(f"{kind} prediction: {plain.prediction[0, 0]} (true: {good.result}) [{'OK' if before[0] else 'WRONG'}]")
    print(f"Bad example (no patch): {plain.prediction[0, 1]} (true: {bad.result}) [{'OK' if before[1] else 'WRONG'}]")
    if after:
        verdict = "FIXED"
    elif patched.prediction[0, 0] == plain.prediction[0, 1]:
        verdict = "NO CHANGE"
    else:
        verdict = "CHANGED, STILL WRONG"
    print(f"Bad example (patched):  {patched.prediction[0, 0]} (true: {bad.result}) [{verdict}]\n")
    return bool(after)


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


def _described(example: Example) -> str:
    return f"{example.expression} = {example.result} (seq_len: {example.seq_len})"


def _section(heading: str) -> None:
    print(f"{RULE}\n{heading}\n{RULE}")
