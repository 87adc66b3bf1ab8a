"""What was measured of a language model on one task, read back for its page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilot.errors import PilotError
from pilot.reporting.measurements import Entries, PatchingResults, optional_entries, optional_rows, read_rows
from pilot.runtime.files import read_json, read_text

EXAMPLE_KEYS = {"clean", "corrupt", "clean_answer", "corrupt_answer", "patched", "attention"}


@dataclass(frozen=True)
class Subject:
    """What a page is about, in words.

    model        such as "SmolLM2-135M-Instruct"
    task         completes "Which attention heads does the model use for ...?": "indirect object identification"
    description  what the clean and the corrupt prompts are, a sentence or two; may be empty
    """

    model: str
    task: str
    description: str = ""


@dataclass(frozen=True)
class TaskResults(PatchingResults):
    """The files of one task."""

    pairs: Entries
    selection: Entries

    @property
    def players(self) -> list[str]:
        """The heads whose sets were measured, by rank."""
        ranks = self.selection["player"]
        return sorted(ranks, key=lambda name: ranks[name])

    @property
    def heads(self) -> list[str]:
        """All heads of the model."""
        return list(self.counterfactual["verdict"])

    @property
    def main_edit(self) -> str:
        """The edit that verdicts, positions and sets are measured on: the first one."""
        effects: Entries = self.counterfactual["effects"]
        return next(iter(effects))

    @property
    def effects(self) -> Entries:
        """Rows of measures by direction and target, of the main edit's confirm pairs."""
        effects: Entries = self.counterfactual["effects"][self.main_edit]
        return effects

    @property
    def n_pairs(self) -> int:
        """Confirm pairs of the main edit."""
        return int(self.counterfactual["pairs"][self.main_edit]["confirm"]["usable"])

    def holding(self, word: str) -> list[str]:
        """The heads that are "sufficient", "necessary" or "redundant"."""
        return [name for name, verdict in self.counterfactual["verdict"].items() if verdict.get(word)]


def read_results(folder: Path) -> TaskResults:
    """Read the files of one task.

    Raises PilotError for one that is damaged, and for one that is missing, unless it is of stage `attribution`.
    """
    return TaskResults(
        counterfactual=read_json(folder / "counterfactual.json", made_by="counterfactual"),
        head_positions=read_rows(folder / "head_positions.csv"),
        interactions=read_rows(folder / "interactions.csv"),
        best_sets=read_rows(folder / "best_sets.csv"),
        attribution=optional_entries(folder / "attribution.json", "attribution"),
        attributed_heads=optional_rows(folder / "attribution.csv"),
        pairs=read_json(folder / "pairs.json", made_by="pairs"),
        selection=read_json(folder / "selection.json", made_by="select"),
    )


def read_examples(path: Path) -> list[dict[str, Any]]:
    """The worked examples, none where the file is missing. Raises PilotError for a damaged file."""
    if not path.exists():
        return []
    try:
        examples = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise PilotError(f"{path}: not JSON ({error})") from None
    if not isinstance(examples, list) or any(EXAMPLE_KEYS - set(example) for example in examples):
        raise PilotError(f"{path}: not a list of worked examples, each with {', '.join(sorted(EXAMPLE_KEYS))}")
    return examples
