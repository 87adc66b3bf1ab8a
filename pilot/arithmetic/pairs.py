"""Counterfactual pairs of expressions on disk: two expressions that one edit tells apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pilot.arithmetic.edits import EDITS, edit_between
from pilot.arithmetic.examples import Example, parse_example
from pilot.errors import PilotError
from pilot.inputs.pairs import SPLITS
from pilot.runtime.files import write_text
from pilot.runtime.records import check_keys, read_records


@dataclass(frozen=True, slots=True)
class CounterfactualPair:
    """Two parenthesised examples with different results, one edit (pilot.arithmetic.edits) apart."""

    clean: Example
    corrupt: Example
    edit: str
    split: str


def write_pairs(path: Path | str, pairs: Sequence[CounterfactualPair]) -> None:
    """One `{"clean": {"expression": ..., "result": ...}, "corrupt": {...}, "edit": ..., "split": ...}` a line."""
    write_text(path, "".join(json.dumps(asdict(pair)) + "\n" for pair in pairs))


def read_pairs(path: Path | str, context: int | None = None) -> list[CounterfactualPair]:
    """All pairs of a JSON-lines file, in order.

    context   the positions of the model that is to read them

    Raises PilotError, naming file and line, for a line that is not a pair: a side that is no example, an unknown
    edit or split, another edit than the stated one, or equal results; and for a file that is missing or without pairs.
    """
    return read_records(path, lambda record: _parse_pair(record, context), "pairs", made_by="generate")


def _parse_pair(record: object, context: int | None) -> CounterfactualPair:
    fields = check_keys(record, "clean", "corrupt", "edit", "split")
    for key, known in (("edit", EDITS), ("split", SPLITS)):
        if fields[key] not in known:
            raise PilotError(f'"{key}" must be one of {", ".join(known)}, not {json.dumps(fields[key])}')
    clean, corrupt = (parse_example(fields[side], context) for side in ("clean", "corrupt"))
    if edit_between(clean.expression, corrupt.expression) != fields["edit"]:
        sides = f"{clean.expression} and {corrupt.expression}"
        raise PilotError(f"{sides} are not two parenthesised expressions one {fields['edit']} edit apart")
    if clean.result == corrupt.result:
        raise PilotError(f"{clean.expression} and {corrupt.expression} have the same result, {clean.result}")
    return CounterfactualPair(clean, corrupt, fields["edit"], fields["split"])
