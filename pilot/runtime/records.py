"""Files of JSON lines: one record a line, and an error that names its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pilot.errors import PilotError
from pilot.runtime.files import read_text

Record = TypeVar("Record")


def read_records(
    path: Path | str, parse: Callable[[object], Record], what: str, made_by: str | None = None
) -> list[Record]:
    """What `parse` makes of the JSON value on each line that is not blank.

    what      what the records are, in the plural
    made_by   the stage that makes the file, if one does

    Raises PilotError for a file that is missing or holds no records; one that a line causes names file and line.
    """
    if made_by and not Path(path).exists():
        raise PilotError(f"{path}: no such file; the stage that makes it: dvc repro {made_by}")
    records = []
    for number, text in enumerate(read_text(path).split("\n"), start=1):  # a string may hold other line separators
        if text.strip():
            try:
                records.append(parse(_from_json(text)))
            except PilotError as error:
                raise PilotError(f"{path}:{number}: {error}") from None
    if not records:
        raise PilotError(f"{path}: holds no {what}" + (f"; make it again: dvc repro -f {made_by}" if made_by else ""))
    return records


def _from_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError itself: an integer of thousands of digits
        raise PilotError(f"not JSON ({getattr(error, 'msg', 'nested too deeply, or too long a number')})") from None


def check_keys(record: object, *keys: str) -> dict[str, Any]:
    """`record`, which is a dict with exactly these keys; else raises PilotError."""
    if not isinstance(record, dict) or record.keys() != set(keys):
        *others, last = (f'"{key}"' for key in keys)
        raise PilotError(f"want an object with exactly the keys {', '.join(others)} and {last}")
    return record
