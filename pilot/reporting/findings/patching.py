"""Counterfactual patching: which heads carry what an edit changes, alone and as sets, and where in the expression."""

from __future__ import annotations

from collections.abc import Mapping

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.reporting.findings.finding import EDIT_WORDS, Finding, by_layer, estimate, leading, listed, mark, set_name
from pilot.reporting.measurements import Measurements
from pilot.reporting.plot import Mark, Panels, Plot, Table

NO_PAIRS = (
    "metrics/counterfactual.json is missing: run dvc repro counterfactual. Or the analysed checkpoint answers too few "
    "pairs right on both sides."
)


def recovery(measured: Measurements) -> Finding:
    title, patched = "Recovery by single heads", measured.counterfactual
    if not patched:
        return Finding("recovery", title, NO_PAIRS)
    panels, largest = {}, []
    for direction in patched["effects"][MAIN_EDIT]:
        best = []
        for edit, by_direction in patched["effects"].items():
            rows = by_direction[direction]
            effects = {name: mark(row["recovery"]) for name, row in rows.items() if name.startswith("L")}
            panels[f"{direction}, {EDIT_WORDS[edit]}"] = by_layer(effects)
            name = leading(effects)
            best.append(f"{name} ({EDIT_WORDS[edit]}, {effects[name].value:.2f})")
        largest.append(f"by {direction} {listed(best)}")
    counts = (f"{patched['pairs'][edit]['confirm']['usable']} ({EDIT_WORDS[edit]})" for edit in patched["effects"])
    text = (
        "A head that carries the meaning of parentheses would stand out where they moved, and not where an operator or "
        f"an operand changed. The largest recovery: {'; '.join(largest)}. Numbers of pairs: {listed(counts)}."
    )
    return Finding("recovery", title, text, Plot("heatmap", panels, "layer", "head", "recovery"))


def sets(measured: Measurements) -> Finding:
    title = "Recovery by sets of heads"
    if not measured.counterfactual:
        return Finding("sets", title, NO_PAIRS)
    outcomes = {
        "recovery": "recovery",
        "wrong_donor": "recovery with an unrelated pair's output (control)",
        "flip_rate": "share of answers that become the donor's",
    }
    panels: Panels = {}
    told = []
    for direction, effects in measured.counterfactual["effects"][MAIN_EDIT].items():
        rows = {key: row for key, row in effects.items() if not key.startswith("L")}
        panels[direction] = {
            words: {set_name(key, len(measured.selected)): mark(row[name]) for key, row in rows.items() if name in row}
            for name, words in outcomes.items()
        }
        told.append(
            f"By {direction} the selected heads together recover {_against_control(rows['top_k'])}; "
            f"{rows['top_k']['flip_rate']['value']:.1%} of the answers become the donor's."
        )
    pairs = measured.counterfactual["pairs"][MAIN_EDIT]
    usable = pairs["confirm"]["usable"]
    alone = [f"{usable - n} by {direction}" for direction, n in pairs["with_wrong_donor"].items() if n < usable]
    left_out = f" Pairs left out of it for want of an unrelated pair: {listed(alone)}." if alone else ""
    text = (
        f"On {usable} pairs whose parentheses moved. {' '.join(told)} The unrelated pair is the control: it shows what "
        f"replacing these outputs does, whatever they carry.{left_out}"
    )
    return Finding("sets", title, text, Plot("bars", panels, "outcome", "heads patched", "recovery, or share of pairs"))


def verdict(measured: Measurements) -> Finding:
    title, patched = "The verdict on each head", measured.counterfactual
    if not patched:
        return Finding("verdict", title, NO_PAIRS)
    verdicts, effects = patched["verdict"], patched["effects"][MAIN_EDIT]
    words = list(next(iter(verdicts.values())))  # sufficient, necessary and, if all sets were measured, redundant
    rows = []
    for name, holds in verdicts.items():
        numbers = []
        for direction, effect in effects.items():
            row, stability = effect[name], patched["stability"][direction][name]
            numbers += [f"{estimate(row['recovery']):.2f}", f"{row['p_holm']:.2g}", f"{stability:.0%}"]
        rows.append([name, *("yes" if holds[word] else "-" for word in words), *numbers])
    held = (f"{word}: {listed(name for name in verdicts if verdicts[name][word])}" for word in words)
    text = (
        f"On pairs whose parentheses moved. {_sentence('; '.join(held))} The p-values are corrected for the number of "
        "heads (Holm). Stability is the share of resamples of the pairs in which the head is among those of largest "
        "effect."
    )
    columns = ("recovery", "p", "stability")
    header = ["head", *words, *(f"{direction}: {column}" for direction in effects for column in columns)]
    return Finding("verdict", title, text, values=Table(header, rows))


def head_positions(measured: Measurements) -> Finding:
    title, rows = "Where in the expression: heads by position", measured.head_positions
    if not rows:
        return Finding("head_positions", title, NO_PAIRS.replace("counterfactual.json", "head_positions.csv", 1))
    panels: Panels = {}
    for row in rows:
        place = f"{row['symbol']}\n{row['position']}"
        panels.setdefault(row["direction"], {}).setdefault(row["head"], {})[place] = Mark(float(row["value"]))
    peaks = []
    for direction in panels:
        peak = max((row for row in rows if row["direction"] == direction), key=lambda row: float(row["value"]))
        place, value = f"position {peak['position']}, '{peak['symbol']}'", float(peak["value"])
        peaks.append(f"by {direction} {peak['head']} at {place} ({value:.2f})")
    text = (
        f"Recovery when a head is patched at one position only, on the {rows[0]['pairs']} pairs of the most common "
        "form. In its symbols n is a digit, ∘ an operator and ^ the start of the line; n/( means a digit on the clean "
        f"side and a parenthesis on the corrupt one. The largest effects: {listed(peaks)}."
    )
    return Finding("head_positions", title, text, Plot("heatmap", panels, "head", "position", "recovery"))


def _against_control(row: Mapping[str, Mapping[str, float]]) -> str:
    """A set's recovery, compared with that of an unrelated pair's output where there is such a pair."""
    own = estimate(row["recovery"])
    if "wrong_donor" not in row:
        return f"{own:.2f}"
    control = estimate(row["wrong_donor"])
    if own.low > control.high:
        compared = "above"
    elif control.low > own.high:
        compared = "below"
    else:
        compared = "not clearly different from"
    return f"{own:.2f}, {compared} the {control:.2f} that the output of an unrelated pair recovers"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
