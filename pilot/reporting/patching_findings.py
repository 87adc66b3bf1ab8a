"""The exhibits of counterfactual patching: which heads carry what an edit changes, where, when and with which others.

Denoising puts clean activations into the corrupt run (are they sufficient?), noising corrupt ones into the clean run
(are they necessary?). Recovery is the share of the logit difference that moves to the donor's.
"""

from __future__ import annotations

from collections.abc import Mapping

from pilot.reporting.model_findings import Exhibit, by_layer, listed, mark
from pilot.reporting.plot import Mark, Plot, Table
from pilot.reporting.results import Results, Rows, selected_heads, set_name

DIRECTIONS = ("denoising", "noising")
EDITED = {"regroup": "parentheses moved", "operator": "operator changed", "operand": "operand changed"}
SETS = {"best": "best set", "ablation": "most impact by ablation", "average": "average of all sets"}
TRAJECTORIES = {"ablation_paren": "ablation impact", "denoising": "denoising", "noising": "noising"}
NO_PATCHING = (
    "metrics/counterfactual.json is missing: run dvc repro counterfactual. Or the analysed checkpoint answers no pair "
    "right on both sides."
)
NO_GAME = "This run has none: it takes all sets of heads, and counterfactual.exhaustive is off."


def patching_exhibits(results: Results) -> list[Exhibit]:
    """recovery, sets, verdict, head_positions, shapley, interactions, best_sets, trajectory.

    What the results lack is an exhibit that says so.
    """
    patching = results["counterfactual"]
    return [
        _recovery(patching),
        _sets(results),
        _verdict(patching),
        _head_positions(results["head_positions"]),
        _shapley(patching),
        _interactions(results["interactions"]),
        _best_sets(results["best_sets"]),
        _trajectory(results),
    ]


def _recovery(patching: Mapping) -> Exhibit:
    title = "Recovery by single heads"
    if not patching:
        return Exhibit("recovery", title, NO_PATCHING)
    panels, told = {}, []
    for direction in DIRECTIONS:
        leading = []
        for edit, by_direction in patching["effects"].items():
            rows = by_direction[direction]
            effects = {name: mark(row["recovery"]) for name, row in rows.items() if name.startswith("L")}
            panels[f"{direction}, {EDITED[edit]}"] = by_layer(effects)
            best = max(effects, key=lambda name: effects[name].value)
            leading.append(f"{best} ({EDITED[edit]}, {effects[best].value:.2f})")
        told.append(f"by {direction} {listed(leading)}")
    counts = (f"{by_split['confirm']['usable']} {edit}" for edit, by_split in patching["pairs"].items())
    reading = (
        "Share of the logit difference that one head's output carries over: 0 nothing, 1 everything. A head with the "
        "meaning of parentheses stands out where they moved and not where an operator or operand changed. "
        f"Largest: {'; '.join(told)}. Pairs: {listed(counts)}."
    )
    return Exhibit("recovery", title, reading, Plot("heatmap", panels, "layer", "head", "recovery"))


def _sets(results: Results) -> Exhibit:
    title, patching = "Recovery by sets of heads", results["counterfactual"]
    if not patching:
        return Exhibit("sets", title, NO_PATCHING)
    effects = patching["effects"]["regroup"]
    outcomes = {
        "recovery": "recovery",
        "wrong_donor": "recovery from another pair (control)",
        "flip_rate": "gives the donor's whole answer",
    }
    panels, told = {}, []
    for direction in DIRECTIONS:
        sets = {key: row for key, row in effects[direction].items() if not key.startswith("L")}
        panels[direction] = {
            words: {set_name(key, results): mark(row[outcome]) for key, row in sets.items() if outcome in row}
            for outcome, words in outcomes.items()
        }
        recovery, control = sets["top_k"]["recovery"], sets["top_k"]["wrong_donor"]
        above = "above" if recovery["low"] > control["high"] else "not clearly above"
        told.append(
            f"by {direction} {_estimate(recovery)}, {above} the {_estimate(control)} of another pair's activations "
            f"({sets['top_k']['flip_rate']['value']:.1%} of the answers become the donor's)"
        )
    reading = f"Where parentheses moved, the selected heads together recover {listed(told)}."
    plot = Plot("bars", panels, "outcome", "heads patched", "recovery, or share of pairs")
    return Exhibit("sets", title, reading, plot)


def _verdict(patching: Mapping) -> Exhibit:
    title = "Verdict on each head"
    if not patching:
        return Exhibit("verdict", title, NO_PATCHING)
    verdicts, effects = patching["verdict"], patching["effects"]["regroup"]
    kinds = list(next(iter(verdicts.values())))  # sufficient, necessary and, if all sets were tried, redundant
    rows = []
    for name, verdict in verdicts.items():
        numbers = []
        for direction in DIRECTIONS:
            row = effects[direction][name]
            frequency = patching["stability"][direction][name]
            numbers += [_estimate(row["recovery"]), f"{row['p_holm']:.2g}", f"{row['p_bh']:.2g}", f"{frequency:.0%}"]
        rows.append([name, *("yes" if verdict[kind] else "no" for kind in kinds), *numbers])
    found = (f"{kind} {listed(name for name in verdicts if verdicts[name][kind])}" for kind in kinds)
    reading = (
        f"Where parentheses moved: {'; '.join(found)}. p-values are corrected for the number of heads, by Holm and by "
        "Benjamini and Hochberg; stability is the share of resamples of the pairs in which the head is among the first."
    )
    columns = ("recovery", "p (Holm)", "p (B-H)", "stability")
    header = ["head", *kinds, *(f"{direction}: {column}" for direction in DIRECTIONS for column in columns)]
    return Exhibit("verdict", title, reading, values=Table(header, rows))


def _head_positions(rows: Rows) -> Exhibit:
    title = "Where in the expression: heads by position"
    if not rows:
        return Exhibit("head_positions", title, "metrics/head_positions.csv is missing: run dvc repro counterfactual.")
    panels: dict[str, dict] = {direction: {} for direction in DIRECTIONS}
    for row in rows:
        place = f"{row['symbol']}\n{row['position']}"
        panels[row["direction"]].setdefault(row["head"], {})[place] = Mark(float(row["value"]))
    peaks = []
    for direction in DIRECTIONS:
        peak = max((row for row in rows if row["direction"] == direction), key=_value)
        peaks.append(
            f"by {direction} {peak['head']} at position {peak['position']}, '{peak['symbol']}' ({_value(peak):.2f})"
        )
    reading = (
        f"Recovery when a head is patched at one position only, over the symbols of the {rows[0]['pairs']} pairs of "
        "the most common form: n is a digit, ∘ an operator, ^ the opening marker, and two stand where clean and "
        f"corrupt differ. The largest effects: {listed(peaks)}."
    )
    return Exhibit("head_positions", title, reading, Plot("heatmap", panels, "head", "position", "recovery"))


def _shapley(patching: Mapping) -> Exhibit:
    title = "Shapley values"
    values = patching.get("shapley")
    if not values:
        return Exhibit("shapley", title, NO_GAME if patching else NO_PATCHING)
    panel = {direction: {name: mark(v) for name, v in values[direction].items()} for direction in DIRECTIONS}
    halves = []
    for direction, marks in panel.items():
        ranked = sorted(marks, key=lambda name: -marks[name].value)
        shares = (sum(marks[name].value for name in ranked[:n]) for n in range(len(ranked) + 1))
        enough = next(n for n, share in enumerate(shares) if share >= 0.5)
        halves.append(f"by {direction} {listed(ranked[:enough])}")
    reading = (
        "What each head adds to the recovery, averaged over all orders of patching heads one after another; the values "
        f"of all heads add up to 1. Half of it is due to: {'; '.join(halves)}."
    )
    plot = Plot("bars", {"": panel}, "direction", "head", "Shapley value (recovery)")
    return Exhibit("shapley", title, reading, plot)


def _interactions(rows: Rows) -> Exhibit:
    title = "Which heads need each other, which replace each other"
    if not rows:
        return Exhibit("interactions", title, NO_GAME)
    panels: dict[str, dict] = {direction: {} for direction in DIRECTIONS}
    for row in rows:
        panels[row["direction"]].setdefault(row["head_b"], {})[row["head_a"]] = _mark_of(row)
    extremes = []
    for direction in DIRECTIONS:
        ranked = sorted((row for row in rows if row["direction"] == direction), key=_value)
        pairs = (f"{row['head_a']} and {row['head_b']} ({_value(row):+.3f})" for row in (ranked[-1], ranked[0]))
        extremes.append(f"by {direction} {', '.join(pairs)}")
    reading = (
        "The Shapley interaction of two heads: positive (red) if they need each other, negative (blue) if either will "
        f"do. Most and least: {'; '.join(extremes)}."
    )
    plot = Plot("heatmap", panels, "head", "with head", "interaction (recovery)", 3)
    return Exhibit("interactions", title, reading, plot)


def _best_sets(rows: Rows) -> Exhibit:
    title = "The best set of each size"
    if not rows:
        return Exhibit("best_sets", title, NO_GAME)
    panels: dict[str, dict] = {direction: {} for direction in DIRECTIONS}
    for row in rows:
        heads = row["heads"] if row["set"] != "average" else ""
        panels[row["direction"]].setdefault(SETS[row["set"]], {})[int(row["size"])] = _mark_of(row, heads)
    reached = []
    for direction, panel in panels.items():
        best = panel[SETS["best"]]
        size = next((size for size in sorted(best) if best[size].value >= 0.5), None)
        enough = "no number of heads" if size is None else f"{size} ({best[size].note}, {best[size].value:.2f})"
        reached.append(f"by {direction} {enough}")
    reading = (
        "Recovery by the best set of as many heads, chosen on other pairs than it is measured on, next to the heads of "
        "most ablation impact and to the mean over all sets of the size. Half of the effect takes: "
        f"{'; '.join(reached)}."
    )
    return Exhibit("best_sets", title, reading, Plot("lines", panels, "set", "heads patched", "recovery"))


def _trajectory(results: Results) -> Exhibit:
    rows, title = results["trajectory"], "The heads over training"
    if not rows:
        return Exhibit("trajectory", title, "metrics/trajectory.csv is missing: this run did not patch its snapshots.")
    panels: dict[str, dict] = {words: {} for words in TRAJECTORIES.values()}
    for row in rows:
        if row["measure"] in TRAJECTORIES:
            heads = panels[TRAJECTORIES[row["measure"]]]
            heads.setdefault(row["head"], {})[int(row["epoch"])] = _mark_of(row)
    leading = {words: max(heads, key=lambda name, of=heads: _last(of[name])) for words, heads in panels.items()}
    told = (
        f"{name} by {words} (half of it by epoch {_half_way(panels[words][name])})" for words, name in leading.items()
    )
    shown = {*selected_heads(results), *leading.values()}
    muted = frozenset(name for heads in panels.values() for name in heads if name not in shown)
    reading = (
        "The effect of each head in the snapshots of training, the selected and the leading ones in colour. In the end "
        f"it is largest for {listed(told)}."
    )
    plot = Plot("lines", panels, "head", "epoch", "effect", muted=muted)
    return Exhibit("trajectory", title, reading, plot)


def _last(marks: Mapping[int, Mark]) -> float:
    return marks[max(marks)].value


def _half_way(marks: Mapping[int, Mark]) -> int:
    """The first epoch with at least half of the last one's effect."""
    return next(epoch for epoch in sorted(marks) if marks[epoch].value >= _last(marks) / 2)


def _value(row: Mapping[str, str]) -> float:
    return float(row["value"])


def _mark_of(row: Mapping[str, str], note: str = "") -> Mark:
    return Mark(_value(row), *(float(row[end]) if row.get(end) else None for end in ("low", "high")), note)


def _estimate(rate: Mapping[str, float]) -> str:
    return f"{rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"
