"""What the page of a task says: sentences computed from its results, each with its plot or table."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from pilot.experiments.words import in_words
from pilot.interventions import parse_heads
from pilot.reporting.findings.attribution import approximations
from pilot.reporting.findings.finding import Finding, by_layer, estimate, leading, listed, mark
from pilot.reporting.findings.subsets import NO_SUBSETS, heads_for_half, interactions, optimism, set_panels
from pilot.reporting.language.results import TaskResults
from pilot.reporting.plot import Mark, Panels, Plot, Table

SET_WORDS = {
    "best": "best set",
    "single": "heads of largest effect alone",
    "sum": "their effects alone, added up",
    "average": "average of all sets",
}
NO_ATTRIBUTION = "Approximations were not compared in this run: stage attribution of the pipeline in language/ does it."
TARGET_WORDS = {"top_k": "all players together", "random_k": "as many heads drawn at random", "all_heads": "all heads"}


def findings(results: TaskResults) -> list[Finding]:
    """All findings, in the order of the page. One without numbers says why there are none."""
    return [
        accuracy(results),
        recovery(results),
        players(results),
        verdict(results),
        controls(results),
        best_sets(results),
        interactions(results),
        head_positions(results),
        *attribution(results),
    ]


def accuracy(results: TaskResults) -> Finding:
    pairs = results.pairs
    left_out = {reason.replace("_", " "): number for reason, number in pairs["left_out"].items() if number}
    reasons = listed((f"{number:g} ({reason})" for reason, number in left_out.items()), nothing="none")
    text = (
        f"The model answers {pairs['accuracy']['clean']:.1%} of the clean prompts right and "
        f"{pairs['accuracy']['corrupt']:.1%} of the corrupt ones. Pairs left out before the model saw them: {reasons}. "
        "Heads are chosen on the select pairs and measured on the confirm pairs, which had no part in the choice. Only "
        "pairs that are answered right on both sides are used."
    )
    counts = {"drawn": "pairs", "both_right": "right on both sides", "usable": "used"}
    rows = [
        [split, *(f"{pairs[split][count]:g}" for count in counts if count in pairs[split])]
        for split in ("select", "confirm")
    ]
    return Finding("accuracy", "Pairs and accuracy", text, values=Table(["", *counts.values()], rows))


def recovery(results: TaskResults) -> Finding:
    by_edit = results.counterfactual["effects"]
    panels, largest = {}, []
    for edit, by_direction in by_edit.items():
        for direction, rows in by_direction.items():
            effects = {name: mark(rows[name]["recovery"]) for name in results.heads}
            title = direction if len(by_edit) == 1 else f"{direction}, {edit.replace('_', ' ')}"
            panels[title] = by_layer(effects)
            least = min(effects, key=lambda name: effects[name].value)
            against = f", least {least} ({effects[least].text('+.2f')})" if effects[least].value < 0 else ""
            name = leading(effects)
            largest.append(f"by {title} {name} ({effects[name].text('+.2f')}){against}")
    text = (
        f"Each of the {len(results.heads)} heads alone, on {results.n_pairs} confirm pairs. Red heads move the answer "
        f"to the donor's, blue ones away from it. The largest recovery: {'; '.join(largest)}. Each interval is of one "
        "head by itself: among so many, a few exclude zero by chance."
    )
    return Finding("recovery", "Every head alone", text, Plot("heatmap", panels, "layer", "head", "recovery"))


def players(results: TaskResults) -> Finding:
    title, shapley = "The players: alone, and their share in sets", results.counterfactual.get("shapley", {})
    panels: Panels = {}
    shares = []
    for direction, rows in results.effects.items():
        panels[direction] = {"alone": {name: mark(rows[name]["recovery"]) for name in results.players}}
        if direction in shapley:
            values = {name: mark(shapley[direction][name]) for name in results.players}
            panels[direction]["Shapley value"] = {name: value for name, value in values.items()}
            shares.append(f"by {direction} {_half(values)}")
    text = (
        f"The {len(results.players)} heads of largest effect on the select pairs, in that order, measured on the "
        "confirm pairs."
    )
    if "search" in results.selection:
        text += _search(results.selection["search"])
    if shares:
        text += (
            " A head's Shapley value is what it adds to the recovery, averaged over all orders in which the players "
            "can be patched one after another; the values add up to the recovery of all players together. A head whose "
            "value is larger than its effect alone works through others. The largest values that make up half of the "
            f"sum: {'; '.join(shares)}."
        )
    return Finding("players", title, text, Plot("bars", panels, "measure", "head", "recovery"))


def _search(search: Mapping[str, Any]) -> str:
    """How players were found without patching every head on every pair; what was only estimated is no recovery."""
    estimated = max(map(len, search["estimated"].values()))
    return (
        f" They were searched for: {estimated} other heads were not patched on all select pairs, but approximated by "
        "gradients and corrected by patching a sample of the pairs. That took "
        f"{search['share']:.0%} of the forwards of patching every head. A head that recovers more than "
        f"{search['min_recovery']:g} in either direction is missed with a probability of at most "
        f"{search['miss_rate']:g}; a head that recovers less is no player."
    )


def _half(values: Mapping[str, Mark]) -> str:
    """The fewest heads, the largest first, whose values make up half of the sum of all."""
    total = sum(value.value for value in values.values())
    if total <= 0:
        return "none, since the sum is not above zero"
    ranked = sorted(values, key=lambda name: -values[name].value)
    sums = accumulate(values[name].value for name in ranked)
    return listed(ranked[: next(i for i, part in enumerate(sums, start=1) if part >= total / 2)])


def verdict(results: TaskResults) -> Finding:
    verdicts, stability = results.counterfactual["verdict"], results.counterfactual["stability"]
    words = list(next(iter(verdicts.values())))  # sufficient, necessary and, if all sets were measured, redundant
    named = [name for name in results.heads if name not in results.players and any(verdicts[name].values())]
    rows = []
    for name in (*results.players, *named):
        numbers = []
        for direction, effects in results.effects.items():
            numbers += [f"{estimate(effects[name]['recovery']):+.2f}", f"{effects[name]['p_holm']:.2g}"]
            numbers.append(f"{stability[direction][name]:.0%}" if name in stability[direction] else "")
        rows.append([name, in_words(verdicts[name]), *numbers])
    held = (f"{word.capitalize()}: {listed(results.holding(word), 'no head')}." for word in words)
    text = (
        f"{' '.join(held)} The p-values are corrected for the number of heads (Holm). Stability is the share of "
        "resamples of the select pairs in which the head is among the leading ones. The table has the players, and any "
        "other head that a word applies to."
    )
    columns = ("recovery", "p", "stability")
    header = ["head", "verdict", *(f"{direction}: {column}" for direction in results.effects for column in columns)]
    return Finding("verdict", "The verdict on each head", text, values=Table(header, rows))


def controls(results: TaskResults) -> Finding:
    measures = {
        "recovery": "recovery",
        "wrong_donor": "recovery from an unrelated pair (control)",
        "flip_rate": "answers that become the donor's",
    }
    rows = [
        [direction, words, *(_cell(effects[target], measure) for measure in measures)]
        for direction, effects in results.effects.items()
        for target, words in TARGET_WORDS.items()
        if target in effects
    ]
    text = (
        "An unrelated pair's outputs show what replacing these heads does, whatever they carry; heads drawn at random "
        "show what any heads do; all heads together show what heads can do at all."
    )
    header = ["direction", "heads patched", *measures.values()]
    return Finding("controls", "All players together, and controls", text, values=Table(header, rows))


def _cell(row: Mapping[str, Mapping[str, float]], measure: str) -> str:
    if measure not in row:
        return ""
    return f"{estimate(row[measure]):.0%}" if measure == "flip_rate" else f"{estimate(row[measure]):+.2f}"


def best_sets(results: TaskResults) -> Finding:
    title, rows = "The best set of each size", results.best_sets
    if not rows:
        return Finding("best_sets", title, NO_SUBSETS)
    panels = set_panels(rows, SET_WORDS)
    half = (f"by {direction} {heads_for_half(panel[SET_WORDS['best']])}" for direction, panel in panels.items())
    text = (
        "All sets of the players were patched. The curves show the recovery by the best set of each number of heads, "
        "by the heads of largest effect alone, what those effects add up to, and all sets of that size "
        "on average. The best sets are chosen on the select pairs and measured on the confirm pairs."
        f"{optimism(rows)} Heads that it takes to recover half: {'; '.join(half)}."
    )
    return Finding("best_sets", title, text, Plot("lines", panels, "set", "heads patched", "recovery"))


def head_positions(results: TaskResults) -> Finding:
    """The players only: there is no room for all heads of a model."""
    shown = sorted(results.players, key=lambda name: parse_heads(name))
    rows = [row for row in results.head_positions if row["head"] in shown]
    title = "Where in the text: the players, position by position"
    if not rows:
        return Finding("head_positions", title, "Heads were not patched position by position in this run.")
    panels: Panels = {}
    for row in rows:
        place = f"{row['symbol'].strip() or '␣'} ({row['position']})"
        cells = panels.setdefault(row["direction"], {}).setdefault(place, dict.fromkeys(shown, Mark(0.0)))
        cells[row["head"]] = Mark(float(row["value"]))
    peaks = []
    for direction in panels:
        peak = max((row for row in rows if row["direction"] == direction), key=lambda row: float(row["value"]))
        place = f"'{peak['symbol'].strip()}' ({peak['position']})"
        peaks.append(f"by {direction} {peak['head']} at {place}, {float(peak['value']):.2f}")
    text = (
        f"Recovery when a head is patched at one position only, on the {rows[0]['pairs']} pairs of the most common "
        "wording. A token in brackets stands for others that are used in its place. The largest effects: "
        f"{'; '.join(peaks)}."
    )
    return Finding("head_positions", title, text, Plot("heatmap", panels, "position", "head", "recovery"))


def attribution(results: TaskResults) -> list[Finding]:
    """`approximations` of all heads, and for sets of the players."""
    n_pairs = results.attribution.get("pairs", {}).get(results.main_edit)
    return approximations(results, results.main_edit, f"On {n_pairs} select pairs,", NO_ATTRIBUTION)
