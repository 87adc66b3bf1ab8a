"""Cheap approximations of patching against the exact results: what they cost, and what they miss."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.reporting.findings.finding import EDIT_WORDS, Finding, estimate, listed, mark
from pilot.reporting.findings.planted import CIRCUIT_WORDS
from pilot.reporting.findings.subsets import NO_SUBSETS
from pilot.reporting.measurements import Entries, Measurements, Rows
from pilot.reporting.plot import Mark, Panels, Plot, Table

NO_ATTRIBUTION = "metrics/attribution.json is missing or of an older version: run dvc repro attribution."
EXACT = "exact"
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
CIRCUITS = CIRCUIT_WORDS | {"saturated": "one head attends by what another wrote"}
BACKGROUND = frozenset(WORDS[name] for name in (EXACT, "zero_ablation", "mean_ablation"))
MEASURES = {
    "error": "error",
    "worst": "worst error",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "recall": "top heads found",
    "sign_errors": "wrong signs",
}


def attribution(measured: Measurements) -> list[Finding]:
    """attribution, attribution_missed, attribution_sets, attribution_shapley, attribution_planted."""
    scores = measured.attribution
    return [
        _methods(scores),
        _missed(measured.attributed_heads),
        _sets(scores),
        _shapley(scores),
        _planted(scores),
    ]


def _methods(scores: Entries) -> Finding:
    title = "What does a cheap approximation cost, and how wrong is it?"
    if "heads" not in scores:
        return Finding("attribution", title, NO_ATTRIBUTION)
    panels: Panels = {}
    rows = []
    for edit, by_direction in scores["heads"].items():
        for direction, methods in by_direction.items():
            panel = panels.setdefault(f"{EDIT_WORDS.get(edit, edit)}, {direction}", {})
            for name, found in sorted(methods.items(), key=lambda item: item[1]["cost"]):
                row = panel.setdefault(_series(name), {})
                row[found["cost"]] = mark(found["error"])._replace(note=_called(name))
                measures = [f"{estimate(found[measure]):.2f}" for measure in MEASURES]
                rows.append([EDIT_WORDS.get(edit, edit), direction, _called(name), f"{found['cost']:g}", *measures])
    best = "; ".join(
        f"by {direction} {_best(methods)}" for direction, methods in scores["heads"].get(MAIN_EDIT, {}).items()
    )
    text = (
        "Each mark is a method that says how much patching each single head would recover. Across: its cost, in "
        "forwards of the model for each pair; a backward pass counts as one. Up: its error, the root mean square over "
        "the heads of its recovery less the exact one. In grey, at a forward for each head, are exact patching, which "
        "has no error, and ablations, which do not approximate it but are often read as if they did. Where parentheses "
        f"moved, the cheaper method closest to it is {best}. The table also has the largest error of any head, "
        "correlations with the exact recoveries and with their ranks, the share found of the "
        f"{scores['top_k']} heads of largest effect, and how many clear effects have the wrong sign."
    )
    plot = Plot(
        "lines", panels, "method", "forwards", "error of recovery", 3, signed=False, muted=BACKGROUND,
        log_columns=True,
    )  # fmt: skip
    return Finding(
        "attribution", title, text, plot, Table(["pairs", "direction", "method", "forwards", *MEASURES.values()], rows)
    )


def _best(methods: Mapping[str, Any]) -> str:
    cheaper = [name for name, found in methods.items() if found["cost"] < methods[EXACT]["cost"]]
    if not cheaper:
        return "none"
    name = min(cheaper, key=lambda each: methods[each]["error"]["value"])
    found = methods[name]
    return f"{_called(name)} ({found['cost']:g} forwards, error {found['error']['value']:.3f})"


def _missed(rows: Rows) -> Finding:
    title = "What did each method miss?"
    if not rows:
        return Finding("attribution_missed", title, NO_ATTRIBUTION)
    table, named = [], []
    for direction in dict.fromkeys(row["direction"] for row in rows):
        of_direction = [row for row in rows if row["direction"] == direction and row["edit"] == MAIN_EDIT]
        by_method: dict[str, list[Mapping[str, str]]] = {}
        for row in of_direction:
            by_method.setdefault(row["method"], []).append(row)
        truth = {row["head"]: float(row["value"]) for row in by_method.pop(EXACT, [])}
        for name, heads in by_method.items():
            worst = max(heads, key=lambda row: abs(float(row["error"])))
            said, true = f"{float(worst['value']):+.2f}", f"{truth[worst['head']]:+.2f}"
            table.append([direction, _called(name), worst["head"], true, said])
            if name == "atp_recipient":
                named.append(f"by {direction} {worst['head']}, which recovers {true} and is given {said}")
    text = (
        "The head that each method is most wrong about, where parentheses moved: its exact recovery, and the method's. "
        f"The gradient at the recipient, the one used most, misses {listed(named)}."
    )
    return Finding(
        "attribution_missed", title, text, values=Table(["direction", "method", "head", "exact", "method's"], table)
    )


def _sets(scores: Entries) -> Finding:
    title = "What do scores of single heads say about sets?"
    if "sets" not in scores:
        return Finding("attribution_sets", title, NO_SUBSETS if "heads" in scores else NO_ATTRIBUTION)
    rows, lost = [], []
    for direction, found in scores["sets"].items():
        for name, chosen in found["chosen"].items():
            predicted = found["predicted"].get(name)
            errors = [f"{estimate(predicted[key]):.3f}" for key in ("error", "worst")] if predicted else ["", ""]
            lost_by = [f"{estimate(chosen[key]):.3f}" for key in ("mean", "worst")]
            rows.append([direction, _called(name), *errors, *lost_by])
        ways = ("exhaustive", "greedy", EXACT)
        means = (f"{found['chosen'][way]['mean']['value']:.3f} ({_called(way)})" for way in ways)
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


def _shapley(scores: Entries) -> Finding:
    title = "How many sets does a Shapley value take?"
    if "sets" not in scores:
        return Finding("attribution_shapley", title, NO_SUBSETS if "heads" in scores else NO_ATTRIBUTION)
    panels: Panels = {
        direction: {
            _called(name): {budget["sets"]: Mark(budget["error"]) for budget in budgets.values()}
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


def _planted(scores: Entries) -> Finding:
    title = "What is each method blind to?"
    if "planted" not in scores:
        return Finding("attribution_planted", title, NO_ATTRIBUTION)
    settings = [(kind, way, found) for kind, ways in scores["planted"].items() for way, found in ways.items()]
    methods = [name for name in settings[0][2] if name != EXACT]
    rows = [
        [CIRCUITS.get(kind, kind), way, *(_verdict(found[name]) for name in methods)] for kind, way, found in settings
    ]
    blind = {name: [f"{kind} by {way}" for kind, way, found in settings if _is_blind(found[name])] for name in methods}
    without = [_called(name) for name, circuits in blind.items() if not circuits]
    text = (
        "On planted circuits, without noise: does a method see the heads that have an effect by exact patching? Yes: "
        "all of them, no: none. Beside it: how many of how many, and heads that it sees falsely. Blind to no "
        f"circuit: {listed(without)}. Blind to some: "
        f"{'; '.join(f'{_called(name)} ({listed(each)})' for name, each in blind.items() if each) or 'none'}. "
        "A dash marks a circuit in which no head has an effect alone, as in the denoising of an AND: single heads, "
        "however exactly patched, do not show it."
    )
    header = ["circuit", "direction", *map(_called, methods)]
    return Finding("attribution_planted", title, text, values=Table(header, rows))


def _is_blind(counts: Mapping[str, int]) -> bool:
    return counts["effective"] > 0 and not counts["seen"]


def _verdict(counts: Mapping[str, int]) -> str:
    """`yes 20/20`, `no 0/20, 3 false`, `-`."""
    seen, effective = counts["seen"], counts["effective"]
    word = "yes" if seen == effective else "partly" if seen else "no"
    text = f"{word} {seen}/{effective}" if effective else "-"
    return text + (f", {counts['false']} false" if counts["false"] else "")


def _called(name: str) -> str:
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
