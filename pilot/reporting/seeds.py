"""What can be compared between models trained from different seeds.

Heads of two such models have nothing in common but their layer. Compared are the recovery of the selected heads
together, of the best set, of ablation's first heads and of the average set; the Shapley values, summed by layer, and
the largest of them; and how many heads are sufficient or necessary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pilot.interventions import parse_heads
from pilot.reporting.summary import SET_SIZE, recovery_of_sets


def comparable(
    train: Mapping[str, Any], counterfactual: Mapping[str, Any], best_sets: Sequence[Mapping[str, str]]
) -> dict[str, float]:
    """The comparable numbers of a run, by dotted name, from metrics/train.json, counterfactual.json and best_sets.csv.

    Raises KeyError if they lack something, as they do without counterfactual.exhaustive; TypeError or AttributeError if
    they are of another kind.
    """
    shapley: dict[str, dict[str, float]] = {}
    for direction, values in counterfactual["shapley"].items():
        by_layer = shapley[direction] = {}
        for name, estimate in values.items():
            layer = f"L{parse_heads(name)[0].layer}"
            by_layer[layer] = by_layer.get(layer, 0.0) + estimate["value"]
    verdicts = counterfactual["verdict"].values()
    return _flattened(
        {
            "exact_match": {kind: scores["exact_match"] for kind, scores in train["test"].items()},
            "top_k_recovery": {
                edit: {direction: rows["top_k"]["recovery"]["value"] for direction, rows in by_direction.items()}
                for edit, by_direction in counterfactual["effects"].items()
            },
            f"recovery_of_{SET_SIZE}": recovery_of_sets(best_sets).get("denoising", {}),
            "shapley": shapley,
            "largest_shapley": {
                direction: max(estimate["value"] for estimate in values.values())
                for direction, values in counterfactual["shapley"].items()
            },
            "heads": {word: sum(verdict[word] for verdict in verdicts) for word in ("sufficient", "necessary")},
        }
    )


def is_stale(columns: Mapping[str, Mapping[str, float]], current: Mapping[str, float]) -> bool:
    """Whether metrics/seeds.json was made from other results than the present ones: none of its columns has them.

    columns   its content: the comparable numbers of each run, by a name such as "seed 0"
    current   the comparable numbers of the present results
    """
    return not any(
        column.keys() == current.keys()
        and all(math.isclose(column[name], value, rel_tol=1e-5, abs_tol=1e-9) for name, value in current.items())
        for column in columns.values()
    )


def _flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        flat |= _flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
