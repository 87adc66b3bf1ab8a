"""The numbers that tell one run from another, in one file: what `dvc metrics diff` puts side by side.

Intervals, tests, tables and the other numbers stand in the files that the stages write.
"""

from __future__ import annotations

from collections.abc import Mapping

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.reporting.results import Results, Rows

SET_SIZE = "4"  # heads of the best set, of ablation's first ones and of sets on average that are compared


def summary(results: Results) -> dict:
    """Of the checkpoint that was analysed; without what its run lacks.

    accuracy      exact match on unseen expressions, by kind
    impact        exact match on parenthesised expressions that ablating each head costs, by the selecting method
    selected      1 for the heads that were selected, 0 for others
    pairs         answered right on both sides, of each edit: what the rest is measured on
    sets          of the selected heads by edit and direction: recovery, the wrong donor's, and how often answers flip
    recovery      of each head by direction, on pairs whose parentheses moved; best_sets, shapley and verdict likewise
    best_sets     recovery of SET_SIZE heads by direction: the best, ablation's first, the average set
    verdict       how many heads are sufficient, necessary, redundant
    repair        share of wrong answers that the selected heads repair, from right donors and from wrong ones
    """
    heads = results["selection"]["heads"]
    names = sorted(heads)
    found: dict = {
        "accuracy": results["ablation"]["baseline"],
        "impact": {name: heads[name]["impact"] for name in names},
        "selected": {name: heads[name]["selected"] for name in names},
        "repair": {donors: rates["fixed"]["value"] for donors, rates in results["patching"]["repair"]["top_k"].items()},
    }
    if counterfactual := results["counterfactual"]:
        found |= _of_pairs(counterfactual, names)
    if sets := recovery_of_sets(results["best_sets"]):
        found["best_sets"] = sets
    return found


def recovery_of_sets(rows: Rows) -> dict[str, dict[str, float]]:
    """By direction and set, of the rows of best_sets.csv those with SET_SIZE heads."""
    recovery: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["size"] == SET_SIZE:
            recovery.setdefault(row["direction"], {})[row["set"]] = float(row["value"])
    return recovery


def _of_pairs(counterfactual: Mapping, names: list[str]) -> dict:
    effects = counterfactual["effects"]
    sets = {
        edit: {
            direction: {
                "recovery": rows["top_k"]["recovery"]["value"],
                "wrong_donor": rows["top_k"]["wrong_donor"]["value"],
                "flip_rate": rows["top_k"]["flip_rate"]["value"],
            }
            for direction, rows in by_direction.items()
        }
        for edit, by_direction in effects.items()
    }
    recovery = {
        direction: {name: rows[name]["recovery"]["value"] for name in names}
        for direction, rows in effects[MAIN_EDIT].items()
    }
    shapley = {
        direction: {name: values[name]["value"] for name in names}
        for direction, values in counterfactual.get("shapley", {}).items()
    }
    verdicts = counterfactual["verdict"].values()
    words = ("sufficient", "necessary", "redundant")
    verdict = {word: sum(verdict.get(word, 0) for verdict in verdicts) for word in words}
    pairs = {edit: by_split["confirm"]["usable"] for edit, by_split in counterfactual["pairs"].items()}
    return {"pairs": pairs, "sets": sets, "recovery": recovery, "shapley": shapley, "verdict": verdict}
