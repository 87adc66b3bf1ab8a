"""What the stages measured, read back for the report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilot.errors import PilotError
from pilot.runtime.files import read_json, read_text

# What the report calls the kinds of expressions.
KIND_WORDS = {"flat": "flat", "paren": "parenthesised"}

Entries = Mapping[str, Any]
Rows = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class PatchingResults:
    """What the experiment on pairs wrote: a JSON file's object, and CSV files' rows as text by column.

    `attributed_heads` is attribution.csv; it and `attribution` are empty where approximations were not compared.
    """

    counterfactual: Entries
    head_positions: Rows
    interactions: Rows
    best_sets: Rows
    attribution: Entries
    attributed_heads: Rows


@dataclass(frozen=True)
class Measurements(PatchingResults):
    """The files of metrics/: a JSON file's object, or a CSV file's rows as text by column.

    `repair` is patching.json, what the stage `patch` writes. Every run has the files up to `repair`; of the others an
    empty one is missing, or has nothing to show.
    """

    train: Entries
    training: Rows
    ablation: Entries
    selection: Entries
    repair: Entries
    trajectory: Rows
    planted: Entries
    power: Rows
    seeds: Entries

    @property
    def selected(self) -> list[str]:
        """The names of the selected heads, by rank."""
        heads = self.selection["heads"]
        return sorted((name for name, head in heads.items() if head["selected"]), key=lambda name: heads[name]["rank"])


def read_measurements(folder: Path) -> Measurements:
    """Read the files of metrics/.

    Raises PilotError for one that every run has and this lacks, and for a damaged one.
    """

    def entries(name: str, stage: str, required: bool = False) -> Entries:
        path = folder / f"{name}.json"
        return read_json(path, made_by=stage) if required else optional_entries(path, stage)

    def rows(name: str) -> Rows:
        return optional_rows(folder / f"{name}.csv")

    training = rows("training")
    if not training:
        raise PilotError(f"{folder / 'training.csv'}: missing or empty; make it again: dvc repro -f train")
    counterfactual = entries("counterfactual", "counterfactual")
    return Measurements(
        train=entries("train", "train", required=True),
        training=training,
        ablation=entries("ablation", "ablate", required=True),
        selection=entries("selection", "select", required=True),
        repair=entries("patching", "patch", required=True),
        # Without a verdict the checkpoint was too early to answer pairs right: there is nothing to show.
        counterfactual=counterfactual if "verdict" in counterfactual else {},
        head_positions=rows("head_positions"),
        interactions=rows("interactions"),
        best_sets=rows("best_sets"),
        attribution=entries("attribution", "attribution"),
        attributed_heads=rows("attribution"),
        trajectory=rows("trajectory"),
        planted=entries("planted", "planted"),
        power=rows("planted_power"),
        seeds=_seeds(folder / "seeds.json"),
    )


def read_rows(path: Path) -> Rows:
    """A CSV file's rows, by column. Raises PilotError if it cannot be read."""
    return list(csv.DictReader(read_text(path).splitlines()))


def optional_entries(path: Path, stage: str) -> Entries:
    """A JSON file's object, empty where the file is missing. Raises PilotError for a damaged one."""
    return read_json(path, made_by=stage) if path.exists() else {}


def optional_rows(path: Path) -> Rows:
    """As `read_rows`; none where the file is missing."""
    return read_rows(path) if path.exists() else []


def _seeds(path: Path) -> Entries:
    """What `python -m stages.seeds` compared, which is no stage; empty where it has not run."""
    try:
        return optional_entries(path, "seeds")
    except PilotError:
        raise PilotError(f"{path}: damaged; restore it, or make it again: python -m stages.seeds --help") from None
