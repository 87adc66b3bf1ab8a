"""The exhibits of counterfactual patching: which heads carry what one edit changes, where, when, and with which others.

Denoising puts clean activations into the corrupt run (are they sufficient?), noising corrupt ones into the clean run (are
they necessary?). Recovery is the share of the logit difference that moves to the donor's.
"""

from __future__ import annotations

from collections.abc import Mapping

from pilot.exhibits import Exhibit, by_layer, listed, mark
from pilot.plots import Mark, Panel, Plot, Table
from pilot.results import Results, selected_heads, set_name

DIRECTIONS = ("denoising", "noising")
EDITED = {"regroup": "parentheses moved", "operator": "operator changed", "operand": "operand changed"}
SETS = {"best": "best set", "ablation": "most impact by ablation", "average": "average of all sets"}
TRAJECTORIES = {"ablation_paren": "ablation impact", "denoising": "denoising", "noising": "noising"}
NO_PATCHING = "metrics/counterfactual.json is missing: run dvc repro patch."
NO_GAME = "This run has none: it takes all sets of heads, and patch.exhaustive is off."


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
    panels, leading = {}, []
    for direction in DIRECTIONS:
        for edit, words in EDITED.items():
            effects = {
                name: mark(row["recovery"])
                for name, row in patching["effects"][edit][direction].items()
                if name.startswith("L")
            }
            panels[f"{direction}, {words}"] = by_layer(effects)
            best = max(effects, key=lambda name: effects[name].value)
            leading.append(f"{best} by {direction} with the {words} ({effects[best].value:.2f})")
    counts = {edit: by_split["confirm"]["usable"] for edit, by_split in patching["pairs"].items()}
    reading = (
        "Share of the logit difference that one head's output carries over: 0 nothing, 1 everything. A head that carries "
        "the meaning of parentheses stands out where they moved and not where an operator or operand changed. Leading: "
        f"{listed(leading)}. Pairs: {listed(f'{n} {edit}' for edit, n in counts.items())}."
    )
    return Exhibit("recovery", title, reading, Plot("heatmap", panels, "layer", "head", "recovery"))


def _sets(results: Results) -> Exhibit:
    title = "Recovery by sets of heads"
    if not results["counterfactual"]:
        return Exhibit("sets", title, NO_PATCHING)
    effects = results["counterfactual"]["effects"]["regroup"]
    outcomes = {
        "recovery": "recovery",
        "wrong_donor": "recovery, another pair's activations (control)",
        "flip_rate": "gives the donor's whole answer",
    }
    panels = {
        direction: {
            words: {
                set_name(key, results): mark(row[outcome]) for key, row in effects[direction].items() if key[0] != "L"
            }
            for outcome, words in outcomes.items()
        }
        for direction in DIRECTIONS
    }
    told = []
    for direction in DIRECTIONS:
        row = effects[direction]["top_k"]
        recovery, control = row["recovery"], row["wrong_donor"]
        above = "above" if recovery["low"] > control["high"] else "not clearly above"
        told.append(
            f"by {direction} {_estimate(recovery)}, {above} the {_estimate(control)} of another pair's activations, and "
            f"{row['flip_rate']['value']:.1%} of the answers become the donor's"
        )
    reading = f"Where parentheses moved, the selected heads together recover {listed(told)}."
    return Exhibit(
        "sets", title, reading, Plot("bars", panels, "outcome", "heads patched", "recovery, or share of pairs")
    )


def _verdict(patching: Mapping) -> Exhibit:
    title = "Verdict on each head"
    if not patching:
        return Exhibit("verdict", title, NO_PATCHING)
    verdicts, effects = patching["verdict"], patching["effects"]["regroup"]
    kinds = ("sufficient", "necessary", "redundant")
    rows = []
    for name, verdict in verdicts.items():
        numbers = []
        for direction in DIRECTIONS:
            row = effects[direction][name]
            frequency = patching["stability"][direction][name]
            numbers += [_estimate(row["recovery"]), f"{row['p_holm']:.2g}", f"{row['p_bh']:.2g}", f"{frequency:.0%}"]
        rows.append([name, *numbers, *("yes" if verdict[kind] else "no" for kind in kinds)])
    found = (f"{kind}: {listed(name for name in verdicts if verdicts[name][kind])}" for kind in kinds)
    reading = (
        f"Where parentheses moved, on pairs that chose nothing. {'; '.join(found)}. p-values are corrected for the number of "
        "heads, by Holm and by Benjamini and Hochberg; stability is the share of resamples of the pairs in which the head "
        "is among the first."
    )
    columns = ("recovery", "p (Holm)", "p (B-H)", "stability")
    header = ["head", *(f"{direction}: {column}" for direction in DIRECTIONS for column in columns), *kinds]
    return Exhibit("verdict", title, reading, values=Table(header, rows))


def _head_positions(rows: list[Mapping[str, str]]) -> Exhibit:
    title = "Where in the expression: head × position"
    if not rows:
        return Exhibit("head_positions", title, "metrics/head_positions.csv is missing or empty: run dvc repro patch.")
    panels: dict[str, dict] = {direction: {} for direction in DIRECTIONS}
    for row in rows:
        place = f"{row['symbol']}\n{row['position']}"
        panels[row["direction"]].setdefault(row["head"], {})[place] = Mark(float(row["value"]))
    peaks = []
    for direction in DIRECTIONS:
        peak = max((row for row in rows if row["direction"] == direction), key=lambda row: float(row["value"]))
        where = f"{peak['head']} at position {peak['position']} ({peak['symbol']})"
        peaks.append(f"by {direction} {where} with {float(peak['value']):.2f}")
    reading = (
        f"Recovery when a head is patched at one position only, over the symbols of the {rows[0]['pairs']} pairs of the most "
        f"common form (a dot where pairs differ). The largest effects: {listed(peaks)}."
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
        shares = [sum(marks[name].value for name in ranked[:n]) for n in range(len(ranked) + 1)]
        n = next(n for n, share in enumerate(shares) if share >= 0.5)
        halves.append(f"by {direction} {listed(ranked[:n])}")
    reading = (
        "What each head adds to the recovery, averaged over all orders in which heads could be patched one after another; "
        f"the values of all heads add up to 1. Half of it is due to: {listed(halves)}."
    )
    return Exhibit(
        "shapley", title, reading, Plot("bars", {"": panel}, "direction", "head", "Shapley value (recovery)")
    )


def _interactions(rows: list[Mapping[str, str]]) -> Exhibit:
    title = "Which heads need each other, which replace each other"
    if not rows:
        return Exhibit("interactions", title, NO_GAME)
    panels: dict[str, dict] = {direction: {} for direction in DIRECTIONS}
    for row in rows:
        panels[row["direction"]].setdefault(row["head_b"], {})[row["head_a"]] = _of_row(row)
    extremes = []
    for direction in DIRECTIONS:
        ranked = sorted((r for r in rows if r["direction"] == direction), key=lambda row: float(row["value"]))
        least, most = ((f"{r['head_a']} and {r['head_b']}", float(r["value"])) for r in (ranked[0], ranked[-1]))
        extremes.append(f"by {direction} {most[0]} ({most[1]:+.2f}) and {least[0]} ({least[1]:+.2f})")
    reading = (
        "The Shapley interaction of two heads: positive (red) if they need each other, negative (blue) if either will do. "
        f"Most and least: {'; '.join(extremes)}."
    )
    return Exhibit(
        "interactions", title, reading, Plot("heatmap", panels, "head", "with head", "interaction (recovery)", 3)
    )


def _best_sets(rows: list[Mapping[str, str]]) -> Exhibit:
    title = "The best set of each size"
    if not rows:
        return Exhibit("best_sets", title, NO_GAME)
    panels: dict[str, dict] = {direction: {} for direction in DIRECTIONS}
    for row in rows:
        heads = row["heads"] if row["set"] != "average" else ""
        panels[row["direction"]].setdefault(SETS[row["set"]], {})[int(row["size"])] = _of_row(row, heads)
    reached = []
    for direction, panel in panels.items():
        best = panel[SETS["best"]]
        size = next((size for size in sorted(best) if best[size].value >= 0.5), None)
        reached.append(
            f"by {direction} {size} ({best[size].note or 'no head'}, {best[size].value:.2f})"
            if size is not None
            else f"by {direction} no number of heads"
        )
    reading = (
        "Recovery by the best set of as many heads, chosen on other pairs than it is measured on, next to the heads of most "
        f"ablation impact and to the mean over all sets of the size. Half of the effect takes: {listed(reached)}."
    )
    return Exhibit("best_sets", title, reading, Plot("lines", panels, "set", "heads patched", "recovery"))


def _trajectory(results: Results) -> Exhibit:
    rows, title = results["trajectory"], "The heads over training"
    if not rows:
        return Exhibit("trajectory", title, "metrics/trajectory.csv is missing: this run did not patch its snapshots.")
    panels: dict[str, dict] = {}
    for measure, words in TRAJECTORIES.items():
        for row in rows:
            if row["measure"] == measure:
                heads = panels.setdefault(words, {})
                heads.setdefault(row["head"], {})[int(row["epoch"])] = Mark(float(row["value"]))
    leading = {
        words: max(heads, key=lambda name: list(heads[name].values())[-1].value) for words, heads in panels.items()
    }
    epochs = {words: _half_way(panels[words], name) for words, name in leading.items()}
    told = (
        f"{name} by {words}, half of its final effect from epoch {epochs[words]}" for words, name in leading.items()
    )
    shown = {*selected_heads(results), *leading.values()}
    muted = frozenset(name for heads in panels.values() for name in heads if name not in shown)
    reading = f"The effect of each head in the snapshots of training; in the end it is largest for {listed(told)}."
    plot = Plot("lines", panels, "head", "epoch", "effect", muted=muted)
    return Exhibit("trajectory", title, reading, plot)


def _half_way(heads: Panel, name: str) -> float | str:
    """The first epoch in which the head has half of its final effect."""
    *_, last = heads[name].values()
    return next(epoch for epoch, mark in heads[name].items() if mark.value >= last.value / 2)


def _of_row(row: Mapping[str, str], note: str = "") -> Mark:
    return Mark(float(row["value"]), *(float(row[end]) if row[end] else None for end in ("low", "high")), note)


def _estimate(rate: Mapping[str, float]) -> str:
    return f"{rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"
