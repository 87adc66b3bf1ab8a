"""Files: written whole or not at all, and named in one line when they cannot be read or written."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pilot.errors import PilotError


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content` under a temporary name, flush it to the disk and rename it: whole or not at all.

    That holds for a killed process and for a loss of power. Makes the folder if it is missing. Raises PilotError if
    the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(path.parent)
    except OSError as error:
        raise PilotError(f"{path}: cannot be written ({error.strerror or error})") from None


def _flush_folder(folder: Path) -> None:
    """Bring the new name of a file to the disk; some systems open no folders, and some file systems flush none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(path: Path | str) -> None:
    """Remove the temporary files that killed writers of the file `path` left beside it.

    Those of writers that still run stay, as does everything that `write_bytes` did not name.
    """
    path = Path(path)
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.tmp")
    for candidate in path.parent.glob(".*.tmp"):
        name = pattern.fullmatch(candidate.name)
        if name and not _runs(int(name[1])):
            candidate.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether another process of this machine has this number, as far as the system lets us ask."""
    if os.name != "posix" or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


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


def write_csv(path: Path | str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """One line for each row, and a header; what a row lacks is left empty. Floats as in `write_json`.

    Raises PilotError as `write_bytes`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_rounded, rows))
    write_text(path, text.getvalue())


def write_json(path: Path | str, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON, whole or not at all. Raises ValueError for NaN or infinity.

    Floats keep 6 significant digits: more are rounding errors of float32, and differences where there are none.
    """
    write_text(path, json.dumps(_rounded(content), indent=2, allow_nan=False) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(child) for child in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def read_json(path: Path | str, made_by: str) -> dict[str, Any]:
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
