"""Writing files whole or not at all, and saying which one cannot be read."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pilot.errors import PilotError


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content` under a temporary name and rename it: whole or not at all.

    Makes the folder if it is missing. Raises PilotError if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise PilotError(f"{path}: cannot be written ({error.strerror or error})") from None


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the temporary files that killed writers of the file `name`, or of any, left in `folder`."""
    for leftover in folder.glob(f".{name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8 with `\\n` line ends on every system, whole or not at all."""
    write_bytes(path, text.encode())


def read_text(path: Path | str) -> str:
    """The UTF-8 text of a file. Raises PilotError if it is missing, unreadable or not text."""
    try:
        return Path(path).read_bytes().decode()
    except FileNotFoundError:
        raise PilotError(f"{path}: no such file") from None
    except OSError as error:
        raise PilotError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise PilotError(f"{path}: not UTF-8 text (byte {error.start})") from None


def write_csv(path: Path | str, columns: Sequence[str], rows: Iterable[Mapping]) -> None:
    """One line for each row, and a header; what a row lacks is left empty. Floats as in `write_json`.

    Raises PilotError as `write_bytes`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_rounded, rows))
    write_text(path, text.getvalue())


def write_json(path: Path | str, content: dict) -> None:
    """Write `content` as indented JSON, whole or not at all. Raises ValueError for NaN or infinity.

    Floats keep 6 significant digits: more are rounding errors of float32, and differences where there are none.
    """
    write_text(path, json.dumps(_rounded(content), indent=2, allow_nan=False) + "\n")


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(child) for child in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def read_json(path: Path | str, made_by: str) -> dict:
    """The object in a JSON file that the stage `made_by` writes. Raises PilotError if it is missing or damaged."""
    if not Path(path).exists():
        raise PilotError(f"{path}: no such file; the stage that makes it: dvc repro {made_by}")
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise PilotError(
            f"{path}:{error.lineno}: not JSON ({error.msg}); make it again: dvc repro -f {made_by}"
        ) from None
    if not isinstance(content, dict):
        raise PilotError(f"{path}: not a JSON object; make it again: dvc repro -f {made_by}")
    return content
