"""The state of a long computation on disk: the same command, run again after a kill, goes on from there.

A state does not belong in a folder that is a DVC output: DVC empties those before it runs a stage.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch

import pilot
from pilot.errors import PilotError
from pilot.runtime.archive import pack, unpack
from pilot.runtime.files import remove_leftovers, write_bytes


def fingerprint(parameters: dict, files: Iterable[Path]) -> str:
    """SHA-256, as hexadecimal text, of all that decides a result.

    parameters   plain values
    files        the data, and code outside this package; the package itself and PyTorch's version are counted in
    """
    digest = hashlib.sha256(json.dumps([parameters, torch.__version__], sort_keys=True).encode())
    for path in [*sorted(Path(pilot.__file__).parent.rglob("*.py")), *files]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class SavedState:
    """The last saved state of one computation in one file, valid for the fingerprint that it was saved with."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key

    def load(self) -> dict | None:
        """The state to go on from, tensors on the CPU. None, with a line that says why, for one that is not valid."""
        if not self.path.exists():
            return None
        try:
            content = unpack(self.path)
        except PilotError as error:
            print(f"Starting afresh: {error}")
            return None
        if not isinstance(content, dict) or content.get("key") != self.key:
            print(f"Starting afresh: {self.path} was saved with other parameters, code or data")
            return None
        return content["state"]

    def save(self, state: dict) -> None:
        """Replace the file by `state`, tensors and plain values, at once. Raises PilotError if it cannot be written."""
        write_bytes(self.path, pack({"key": self.key, "state": state}))

    def remove(self) -> None:
        """Leave nothing behind: the computation has succeeded."""
        self.path.unlink(missing_ok=True)
        remove_leftovers(self.path.parent, self.path.name)
        with contextlib.suppress(OSError):  # the folder goes with the last state in it
            self.path.parent.rmdir()
