"""What DVC compares between runs: the numbers of metrics/summary.json and the rows of metrics/heads.csv."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.interventions import parse_heads
from pilot.reporting.measurements import KIND_WORDS, Entries, Measurements, Rows

SET_SIZE = "4"  # heads in the sets whose recovery is compared

HEAD_COLUMNS = ("layer", "head", "measure", "value")


def summary(measured: Measurements) -> dict[str, Any]:
    """The numbers that tell one run from another, of the analysed checkpoint; a run lacks what it did not measure.

    accuracy    exact match on unseen expressions, by kind
    impact      exact match on parenthesised expressions lost by ablating each head, as the selection measured it
    selected    1 for the selected heads, 0 for the others
    repair      share of wrong answers that the selected heads repair, by kind of donor
    pairs       number of pairs measured, by edit
    sets        of the selected heads, by edit and direction: recovery, the wrong donor's, and how often answers flip
    recovery    of each head on pairs whose parentheses moved, by direction; so are the Shapley values
    verdict     how many heads are sufficient, necessary, redundant
    best_sets   recovery of SET_SIZE heads by direction: the best set, ablation's first, the average set
    """
    heads = measured.selection["heads"]
    repaired = measured.repair["repair"]["top_k"]
    found: dict[str, Any] = {
        "accuracy": measured.ablation["baseline"],
        "impact": {name: heads[name]["impact"] for name in sorted(heads)},
        "selected": {name: heads[name]["selected"] for name in sorted(heads)},
        "repair": {donors: rates["fixed"]["value"] for donors, rates in repaired.items()},
    }
    if measured.counterfactual:
        found |= _of_pairs(measured.counterfactual, sorted(heads))
    if sets := recovery_of_sets(measured.best_sets):
        found["best_sets"] = sets
    return found


def recovery_of_sets(rows: Rows) -> dict[str, dict[str, float]]:
    """Recovery by direction and set, from the rows of best_sets.csv with SET_SIZE heads."""
    recovery: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["size"] == SET_SIZE:
            recovery.setdefault(row["direction"], {})[row["set"]] = float(row["value"])
    return recovery


def head_rows(measured: Measurements) -> list[dict[str, Any]]:
    """Ablation impact and, where measured, recovery of every head: rows of HEAD_COLUMNS."""
    measures: dict[str, dict[str, float]] = {
        f"{method} ablation, {words}": {name: impact[kind]["value"] for name, impact in heads.items()}
        for method, heads in measured.ablation["impact"].items()
        for kind, words in KIND_WORDS.items()
    }
    for direction, rows in measured.counterfactual.get("effects", {}).get(MAIN_EDIT, {}).items():
        measures[direction] = {name: rows[name]["recovery"]["value"] for name in measured.selection["heads"]}
    return [
        {"layer": patch.layer, "head": patch.head, "measure": measure, "value": values[patch.name]}
        for measure, values in measures.items()
        for patch in sorted(patch for name in values for patch in parse_heads(name))
    ]


def _of_pairs(counterfactual: Entries, names: list[str]) -> dict[str, Any]:
    effects, verdicts = counterfactual["effects"], counterfactual["verdict"].values()

    def of_selected(rows: Mapping[str, Any]) -> dict[str, float]:
        measures = ("recovery", "wrong_donor", "flip_rate")
        return {key: rows["top_k"][key]["value"] for key in measures if key in rows["top_k"]}

    return {
        "pairs": {edit: by_split["confirm"]["usable"] for edit, by_split in counterfactual["pairs"].items()},
        "sets": {
            edit: {direction: of_selected(rows) for direction, rows in by_direction.items()}
            for edit, by_direction in effects.items()
        },
        "recovery": {
            direction: {name: rows[name]["recovery"]["value"] for name in names}
            for direction, rows in effects[MAIN_EDIT].items()
        },
        "shapley": {
            direction: {name: values[name]["value"] for name in names}
            for direction, values in counterfactual.get("shapley", {}).items()
        },
        "verdict": {
            word: sum(verdict.get(word, 0) for verdict in verdicts) for word in ("sufficient", "necessary", "redundant")
        },
    }
