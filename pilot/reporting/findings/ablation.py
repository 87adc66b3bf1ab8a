"""Ablation: how much accuracy is lost when a head's output is replaced, and which heads are selected by that."""

from __future__ import annotations

from pilot.reporting.findings.finding import Finding, by_layer, listed, mark
from pilot.reporting.measurements import Measurements
from pilot.reporting.plot import Plot, Table

REPLACED = {
    "zero": "zeros",
    "mean": "its mean over many expressions",
    "resample": "its output on another expression",
}


def ablations(measured: Measurements) -> list[Finding]:
    """One finding for each method: ablation_zero, ablation_mean, ablation_resample."""
    return [_ablation(measured, method) for method in measured.ablation["impact"]]


def _ablation(measured: Measurements, method: str) -> Finding:
    heads = measured.ablation["impact"][method]
    columns = {"flat": "flat", "paren": "parenthesised", "paren_minus_flat": "parenthesised minus flat"}
    panels = {
        words: by_layer({name: mark(impact[column], 100) for name, impact in heads.items()})
        for column, words in columns.items()
    }
    worst = max(heads, key=lambda name: heads[name]["paren"]["value"])
    lost = (
        f"Parenthesised answers lose most without {worst}: {mark(heads[worst]['paren'], 100).text('.1f')} points"
        if heads[worst]["paren"]["low"] > 0
        else "No single head clearly costs parenthesised answers"
    )
    special = [name for name, impact in heads.items() if impact["paren_minus_flat"]["low"] > 0]
    text = (
        f"Each head's output is replaced by {REPLACED[method]}. {lost}. Heads that parenthesised expressions need more "
        f"than flat ones, by an interval above zero: {listed(special)}."
    )
    plot = Plot("heatmap", panels, "layer", "head", "exact match lost (points)", 1)
    return Finding(f"ablation_{method}", f"Impact of {method} ablation", text, plot)


def selection(measured: Measurements) -> Finding:
    heads = measured.selection["heads"]
    rows = [
        [
            name,
            str(heads[name]["rank"]),
            f"{100 * heads[name]['impact']:+.1f}",
            f"{100 * heads[name]['confirm_impact']:+.1f}",
            _choice(bool(heads[name]["selected"]), bool(heads[name]["meets_threshold"])),
        ]
        for name in sorted(heads, key=lambda name: heads[name]["rank"])
    ]
    chosen = [heads[name] for name in measured.selected]
    lost, confirmed = (100 * sum(head[key] for head in chosen) / len(chosen) for key in ("impact", "confirm_impact"))
    text = (
        f"The {len(chosen)} heads of largest impact on parenthesised expressions. They were chosen on one half of the "
        f"test lines, where they cost {lost:.1f} points on average; on the other half, which had no part in the "
        f"choice, they cost {confirmed:.1f}."
    )
    header = ["head", "rank", "impact, select half (points)", "impact, confirm half (points)", ""]
    return Finding("selection", "The selected heads", text, values=Table(header, rows))


def _choice(selected: bool, meets_threshold: bool) -> str:
    if not selected:
        return ""
    return "selected" if meets_threshold else "selected, below the threshold"
