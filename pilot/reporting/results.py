"""What the stages measured, read back for the report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pilot.errors import PilotError
from pilot.interventions import parse_heads
from pilot.runtime.files import read_json, read_text

# The stage that makes each JSON file in metrics/. The report needs the first ones, and says what it lacks of the rest.
REQUIRED = {"train": "train", "ablation": "ablate", "selection": "select", "patching": "patch"}
OPTIONAL = {"counterfactual": "counterfactual", "planted": "planted"}
TABLES = ("training", "interactions", "best_sets", "head_positions", "trajectory")

Rows = Sequence[Mapping[str, str]]
Results = Mapping[str, Any]


def read_results(folder: Path) -> Results:
    """The files of metrics/ by name: a JSON file's object, a CSV file's rows of text; empty where one is missing.

    Raises PilotError for a required file that is missing, and for a damaged one.
    """
    results: dict[str, Any] = {name: read_json(folder / f"{name}.json", made_by=REQUIRED[name]) for name in REQUIRED}
    for name, stage in OPTIONAL.items():
        path = folder / f"{name}.json"
        results[name] = read_json(path, made_by=stage) if path.exists() else {}
    results["seeds"] = _seeds(folder / "seeds.json")
    if "regroup" not in results["counterfactual"].get("effects", {"regroup": {}}):
        results["counterfactual"] = {}  # a checkpoint too early to answer a pair right has nothing to show
    for name in TABLES:
        path = folder / f"{name}.csv"
        results[name] = list(csv.DictReader(read_text(path).splitlines())) if path.exists() else []
    if not results["training"]:
        raise PilotError(f"{folder / 'training.csv'}: missing or empty; the stage that makes it: dvc repro -f train")
    return results


def _seeds(path: Path) -> dict:
    """What `python -m stages.seeds` compared, which is no stage; empty where it has not run."""
    try:
        return read_json(path, made_by="seeds") if path.exists() else {}
    except PilotError:
        raise PilotError(f"{path}: damaged; restore it, or make it again: python -m stages.seeds --help") from None


def selected_heads(results: Results) -> list[str]:
    """The names of the selected heads, by rank."""
    heads = results["selection"]["heads"]
    return sorted((name for name, head in heads.items() if head["selected"]), key=lambda name: heads[name]["rank"])


def head_table(results: Results) -> str:
    """metrics/heads.csv, which DVC draws: `layer,head,measure,value` of ablation impact and, if measured, recovery."""
    impact = results["ablation"]["impact"]
    measures = {
        f"{method} ablation, {kind}": {name: by_kind[key]["value"] for name, by_kind in heads.items()}
        for method, heads in impact.items()
        for key, kind in (("flat", "flat"), ("paren", "parenthesised"))
    }
    effects = results["counterfactual"].get("effects", {}).get("regroup", {})
    for direction, rows in effects.items():
        measures[direction] = {name: rows[name]["recovery"]["value"] for name in results["selection"]["heads"]}
    lines = ["layer,head,measure,value"]
    for measure, values in measures.items():
        for patch in sorted(patch for name in values for patch in parse_heads(name)):
            lines.append(f'{patch.layer},{patch.head},"{measure}",{values[patch.name]}')
    return "\n".join(lines) + "\n"


def set_name(key: str, results: Results) -> str:
    """What to call a patched set of heads, by its key in patching.json and counterfactual.json."""
    k = len(selected_heads(results))
    if key.startswith("top_k@"):
        return f"the {k} selected, positions {key.removeprefix('top_k@')}"
    names = {
        "top_k": f"the {k} selected heads",
        "bottom_k": f"the {k} lowest-ranked heads",
        "random_k": f"{k} heads drawn at random",
        "all_heads": "all heads",
    }
    return names.get(key, key)
