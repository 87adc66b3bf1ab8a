"""Cheap approximations of patching against the exact results: what they cost, and what they miss."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.reporting.findings.finding import EDIT_WORDS, Finding, estimate, listed, mark
from pilot.reporting.findings.subsets import NO_SUBSETS
from pilot.reporting.measurements import Entries, Measurements, PatchingResults, Rows
from pilot.reporting.plot import Mark, Panels, Plot, Table

NO_ATTRIBUTION = "metrics/attribution.json is missing or of an older version: run dvc repro attribution."
EXACT = "exact"
USUAL = "atp_recipient"
WORDS = {
    "atp_recipient": "gradient at the recipient",
    "atp_donor": "gradient at the donor",
    "atp_mean": "mean of both gradients",
    "atp_star": "GradDrop (AtP*)",
    "relp": "relevance patching",
    "ig_inputs": "integrated gradients, inputs",
    "ig_activations": "integrated gradients, z",
    "zero_ablation": "zero ablation",
    "mean_ablation": "mean ablation",
    EXACT: "exact patching",
    "shapley": "exact Shapley values",
    "greedy": "greedy, one head at a time",
    "exhaustive": "best of all sets",
    "permutations": "permutations",
    "kernel_shap": "KernelSHAP",
}
REFERENCES = frozenset(WORDS[name] for name in (EXACT, "zero_ablation", "mean_ablation"))
MEASURES = {
    "error": "error",
    "worst": "worst error",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "recall": "top heads found",
    "sign_errors": "wrong signs",
}


class Miss(NamedTuple):
    """The head that a method is most wrong about: its exact recovery, and the method's."""

    head: str
    exact: float
    said: float


def attribution(measured: Measurements) -> list[Finding]:
    """`approximations` on arithmetic."""
    return approximations(measured, MAIN_EDIT, "Where parentheses moved,", NO_ATTRIBUTION)


def approximations(measured: PatchingResults, main_edit: str, where: str, missing: str) -> list[Finding]:
    """attribution, attribution_missed, attribution_sets, attribution_shapley.

    where     begins a sentence on the pairs of the main edit
    missing   why there are no numbers, if there are none
    """
    scores = measured.attribution
    return [
        _methods(scores, main_edit, where, missing),
        _missed(measured.attributed_heads, main_edit, where, missing),
        _sets(scores, missing),
        _shapley(scores, missing),
    ]


def _methods(scores: Entries, main_edit: str, where: str, missing: str) -> Finding:
    title = "What does a cheap approximation cost, and how wrong is it?"
    if "heads" not in scores:
        return Finding("attribution", title, missing)
    panels: Panels = {}
    rows = []
    for edit, by_direction in scores["heads"].items():
        words = EDIT_WORDS.get(edit, edit)
        for direction, methods in by_direction.items():
            panel = panels.setdefault(f"{words}, {direction}" if len(scores["heads"]) > 1 else direction, {})
            for name, found in sorted(methods.items(), key=lambda item: item[1]["cost"]):
                row = panel.setdefault(_series(name), {})
                row[found["cost"]] = mark(found["error"])._replace(note=called(name))
                measures = [f"{estimate(found[measure]):.2f}" for measure in MEASURES]
                rows.append([words, direction, called(name), f"{found['cost']:g}", *measures])
    best = "; ".join(
        f"by {direction} {_best(methods)}" for direction, methods in scores["heads"].get(main_edit, {}).items()
    )
    text = (
        "Each mark is a method that says how much patching each single head would recover. Across: its cost, in "
        "forwards of the model for each pair; a backward pass counts as one. Up: its error, the root mean square over "
        "the heads of its recovery less the exact one. In grey, at a forward for each head, are exact patching, which "
        "has no error, and ablations, which do not approximate it but are often read as if they did. "
        f"{where} the approximation closest to exact patching, among those that cost less, is {best}. The table also "
        "has the largest error of any head, correlations with the exact recoveries and with their ranks, the share "
        f"found of the {scores['top_k']} heads of largest effect, and how many clear effects have the wrong sign."
    )
    plot = Plot(
        "lines", panels, "method", "forwards", "error of recovery", 3, signed=False, references=REFERENCES,
        log_columns=True,
    )  # fmt: skip
    return Finding(
        "attribution", title, text, plot, Table(["pairs", "direction", "method", "forwards", *MEASURES.values()], rows)
    )


def _best(methods: Mapping[str, Any]) -> str:
    cheaper = [
        name
        for name, found in methods.items()
        if _series(name) not in REFERENCES and found["cost"] < methods[EXACT]["cost"]
    ]
    if not cheaper:
        return "none"
    name = min(cheaper, key=lambda each: methods[each]["error"]["value"])
    found = methods[name]
    return f"{called(name)} ({found['cost']:g} forwards, error {found['error']['value']:.3f})"


def largest_misses(rows: Rows, edit: str) -> dict[str, dict[str, Miss]]:
    """Of the rows of attribution.csv: by direction and method, on the pairs of an edit."""
    by_direction: dict[str, dict[str, Miss]] = {}
    for row in rows:
        if row["edit"] == edit and row["method"] != EXACT:
            said, error = float(row["value"]), float(row["error"])
            methods = by_direction.setdefault(row["direction"], {})
            worst = methods.get(row["method"])
            if worst is None or abs(error) > abs(worst.said - worst.exact):
                methods[row["method"]] = Miss(row["head"], said - error, said)
    return by_direction


def _missed(rows: Rows, main_edit: str, where: str, missing: str) -> Finding:
    title = "What did each method miss?"
    if not rows:
        return Finding("attribution_missed", title, missing)
    misses = largest_misses(rows, main_edit)
    table = [
        [direction, called(name), miss.head, f"{miss.exact:+.2f}", f"{miss.said:+.2f}"]
        for direction, methods in misses.items()
        for name, miss in methods.items()
    ]
    text = f"{where} the head that each method is most wrong about: its exact recovery, and the method's."
    usual = {direction: methods[USUAL] for direction, methods in misses.items() if USUAL in methods}
    if usual:
        named = (
            f"by {direction} {miss.head}, which recovers {miss.exact:+.2f} and is given {miss.said:+.2f}"
            for direction, miss in usual.items()
        )
        text += f" The {WORDS[USUAL]}, the approximation used most, misses {listed(named)}."
    return Finding(
        "attribution_missed", title, text, values=Table(["direction", "method", "head", "exact", "method's"], table)
    )


def _sets(scores: Entries, missing: str) -> Finding:
    title = "What do scores of single heads say about sets?"
    if "sets" not in scores:
        return Finding("attribution_sets", title, NO_SUBSETS if "heads" in scores else missing)
    rows, lost = [], []
    for direction, found in scores["sets"].items():
        for name, chosen in found["chosen"].items():
            predicted = found["predicted"].get(name)
            errors = [f"{estimate(predicted[key]):.3f}" for key in ("error", "worst")] if predicted else ["", ""]
            lost_by = [f"{estimate(chosen[key]):.3f}" for key in ("mean", "worst")]
            rows.append([direction, called(name), *errors, *lost_by])
        ways = ("exhaustive", "greedy", EXACT)
        means = (f"{found['chosen'][way]['mean']['value']:.3f} ({called(way)})" for way in ways)
        lost.append(f"by {direction} {listed(means)}")
    text = (
        "If a set recovered what its heads' scores add up to: the root mean square error over all sets, and the "
        "largest error. And the recovery that is lost, on other pairs, by choosing as the set of each size the heads "
        "of largest score, not the best set there: the mean over the sizes, and the largest loss. A set can also be "
        "chosen one head at a time, or as the best of all sets on the pairs it is chosen on. "
        f"Lost on average: {'; '.join(lost)}."
    )
    header = ["direction", "score", "error over all sets", "largest error", "lost recovery", "largest loss"]
    return Finding("attribution_sets", title, text, values=Table(header, rows))


def _shapley(scores: Entries, missing: str) -> Finding:
    title = "How many sets does a Shapley value take?"
    if "sets" not in scores:
        return Finding("attribution_shapley", title, NO_SUBSETS if "heads" in scores else missing)
    panels: Panels = {
        direction: {
            called(name): {budget["sets"]: Mark(budget["error"]) for budget in budgets.values()}
            for name, budgets in found["shapley"].items()
        }
        for direction, found in scores["sets"].items()
    }
    text = (
        "The error of Shapley values that are estimated from some of the sets, drawn at random, against those of all "
        "sets: root mean square over the heads. Permutations patch one head after the other in random order; "
        "KernelSHAP fits the values to random sets by least squares."
    )
    plot = Plot("lines", panels, "estimator", "sets patched", "error", 4, signed=False, log_columns=True)
    return Finding("attribution_shapley", title, text, plot)


def called(name: str) -> str:
    """What to call a method, an estimator or a way to choose sets."""
    base, steps = _split(name)
    return WORDS.get(base, base) + (f", {steps} step{'s' if steps != '1' else ''}" if steps else "")


def _series(name: str) -> str:
    """The method, without its number of steps: these are one line."""
    base, _ = _split(name)
    return WORDS.get(base, base)


def _split(name: str) -> tuple[str, str]:
    """`ig_inputs_5` -> ("ig_inputs", "5"); other names have no number of steps."""
    match = re.fullmatch(r"(ig_\w+)_(\d+)", name)
    return (match[1], match[2]) if match else (name, "")
