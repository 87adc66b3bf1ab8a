"""Sets of heads: what each head adds on average, which heads need or replace each other, which sets are best."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from pilot.reporting.findings.finding import Finding, listed, mark
from pilot.reporting.findings.patching import NO_PAIRS
from pilot.reporting.measurements import Measurements, PatchingResults, Rows
from pilot.reporting.plot import Label, Mark, Panels, Plot, Row

SET_WORDS = {"best": "best set", "ablation": "largest impact by ablation", "average": "average of all sets"}
NO_SUBSETS = "Not measured in this run: it takes all sets of heads, and counterfactual.exhaustive is off."


def shapley(measured: Measurements) -> Finding:
    title, values = "Shapley values: each head's share", measured.counterfactual.get("shapley")
    if not values:
        return Finding("shapley", title, _why_none(measured))
    panel: dict[str, dict[Label, Mark]] = {}
    halves = []
    for direction, entries in values.items():
        marks = ((name, mark(entry)) for name, entry in entries.items())
        ranked = sorted(marks, key=lambda item: item[1].value, reverse=True)
        panel[direction] = dict(ranked)
        enough = sum(total < 0.5 for total in accumulate(each.value for _, each in ranked)) + 1
        halves.append(f"by {direction} {listed(name for name, _ in ranked[:enough])}")
    text = (
        "What a head adds to the recovery, averaged over all orders in which the heads can be patched one after "
        f"another; the values of all heads add up to 1. The largest ones that make up half: {'; '.join(halves)}."
    )
    return Finding("shapley", title, text, Plot("bars", {"": panel}, "direction", "head", "Shapley value (recovery)"))


def interactions(measured: PatchingResults) -> Finding:
    title, rows = "Which heads need each other, which replace each other", measured.interactions
    if not rows:
        return Finding("interactions", title, _why_none(measured))
    panels: Panels = {}
    for row in rows:
        panels.setdefault(row["direction"], {}).setdefault(row["head_b"], {})[row["head_a"]] = _mark(row)
    needing, replacing = [], []
    for direction in panels:
        ranked = sorted((row for row in rows if row["direction"] == direction), key=lambda row: float(row["value"]))
        least, most = ranked[0], ranked[-1]
        needing.append(f"by {direction} {_pair(most, '') if float(most['low']) > 0 else 'none'}")
        p = f", p {float(least['p_holm']):.2g}"
        replacing.append(f"by {direction} {_pair(least, p) if float(least['high']) < 0 else 'none'}")
    text = (
        "The Shapley interaction of two heads: positive (red) if they work only together, negative (blue) if either "
        f"can stand in for the other. Strongest positive: {listed(needing)}. Strongest negative: {listed(replacing)}. "
        "A pair is named here if its own 95% interval excludes zero; p is of the test below zero, corrected for the "
        "number of pairs of heads (Holm)."
    )
    return Finding("interactions", title, text, Plot("heatmap", panels, "head", "with head", "interaction", 3))


def best_sets(measured: Measurements) -> Finding:
    title, rows = "The best set of each size", measured.best_sets
    if not rows:
        return Finding("best_sets", title, _why_none(measured))
    panels = set_panels(rows, SET_WORDS)
    reached = "; ".join(
        f"by {direction} {heads_for_half(panel[SET_WORDS['best']])}" for direction, panel in panels.items()
    )
    text = (
        "Recovery by the best set of each number of heads, by the heads of largest ablation impact, and by all sets of "
        f"that size on average. The best sets are chosen on other pairs than they are measured on.{optimism(rows)} "
        f"Heads that it takes to recover half: {reached}."
    )
    return Finding("best_sets", title, text, Plot("lines", panels, "set", "heads patched", "recovery"))


def set_panels(rows: Rows, words: Mapping[str, str]) -> Panels:
    """Recovery by direction, kind of set and number of heads, from the rows of best_sets.csv.

    words   what to call the kinds of sets, in the order in which they stand
    """
    panels: Panels = {}
    order = list(words)
    for row in sorted(rows, key=lambda row: order.index(row["set"])):
        sizes = panels.setdefault(row["direction"], {}).setdefault(words[row["set"]], {})
        sizes[int(row["size"])] = _mark(row, row["heads"] if row["set"] != "average" else "")
    return panels


def heads_for_half(best: Row) -> str:
    """The smallest best set that recovers half: `2 (L0H1+L1H1, 0.85)`."""
    size = next((size for size in best if best[size].value >= 0.5), None)
    return "no set does" if size is None else f"{size} ({best[size].note}, {best[size].value:.2f})"


def optimism(rows: Rows) -> str:
    """A sentence on how much choosing the best sets flatters them on the pairs that they were chosen on."""
    most = max((float(row["optimism"]) for row in rows if row.get("optimism")), default=0.0)
    return f" On the pairs that they were chosen on they recover up to {most:.3f} more." if most > 0 else ""


def _why_none(measured: PatchingResults) -> str:
    return NO_SUBSETS if measured.counterfactual else NO_PAIRS


def _pair(row: Mapping[str, str], test: str) -> str:
    return f"{row['head_a']} and {row['head_b']} ({float(row['value']):+.3f}{test})"


def _mark(row: Mapping[str, str], note: str = "") -> Mark:
    low, high = (float(row[end]) if row[end] else None for end in ("low", "high"))
    return Mark(float(row["value"]), low, high, note)
