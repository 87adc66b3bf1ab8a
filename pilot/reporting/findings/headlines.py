"""The main results in a few sentences, for the head of the page."""

from __future__ import annotations

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.reporting.findings.finding import estimate, listed
from pilot.reporting.measurements import Measurements


def headlines(measured: Measurements) -> list[str]:
    """Of the analysed checkpoint: how often it is right, which heads it needs, what they carry, what one does alone."""
    right = measured.ablation["baseline"]
    below = [name for name in measured.selected if not measured.selection["heads"][name]["meets_threshold"]]
    needed = f"Parenthesised answers need these heads most, by ablation of one at a time: {listed(measured.selected)}"
    return [
        f"The model gives the whole answer right for {right['flat']:.1%} of flat and {right['paren']:.1%} of "
        "parenthesised expressions that it has not seen.",
        f"{needed} (below the impact threshold: {listed(below)})." if below else f"{needed}.",
        *(_patching(measured) if measured.counterfactual else ()),
    ]


def _patching(measured: Measurements) -> list[str]:
    effects, verdicts = measured.counterfactual["effects"][MAIN_EDIT], measured.counterfactual["verdict"]
    moved = (f"{estimate(rows['top_k']['recovery']):.1%} by {direction}" for direction, rows in effects.items())
    control = (
        f"{estimate(rows['top_k']['wrong_donor']):.1%} by {direction}"
        for direction, rows in effects.items()
        if "wrong_donor" in rows["top_k"]
    )
    held = {
        word: listed((name for name, verdict in verdicts.items() if verdict[word]), nothing="no head")
        for word in ("sufficient", "necessary")
    }
    return [
        f"Where one edit moves the parentheses, the outputs of these heads together recover {listed(moved)} of the "
        f"difference that the edit makes; those of an unrelated pair, the control, {listed(control)}.",
        f"Sufficient alone: {held['sufficient']}. Necessary: {held['necessary']}.",
    ]
