"""The state of a long computation on disk: after a kill, the same command resumes from it.

Keep states out of folders that are DVC outputs: DVC empties those before it runs a stage.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pilot.errors import PilotError
from pilot.runtime.archive import pack, unpack
from pilot.runtime.files import remove_leftovers, write_bytes

# Each restricts the instructions of some library's kernels, and so changes how they round.
ROUNDING_VARIABLES = ("PILOT_CPU_CAPABILITY", "ATEN_CPU_CAPABILITY", "MKL_CBWR")


def code_digest(packages: Iterable[str]) -> str:
    """SHA-256, as hexadecimal text, of all Python files of packages and modules such as "pilot.models".

    Name those that a computation runs, and no others: a change of a chart is no reason to start a training afresh.
    """
    digest = hashlib.sha256()
    for name in sorted(packages):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        root = Path(spec.origin).parent
        files = sorted(root.rglob("*.py")) if spec.submodule_search_locations else [Path(spec.origin)]
        for path in files:
            digest.update(f"{name} {path.relative_to(root).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def fingerprint(parameters: Mapping[str, Any], files: Iterable[Path], packages: Iterable[str]) -> str:
    """SHA-256, as hexadecimal text, of what a result is computed from, PyTorch's version included.

    parameters   plain values
    files        such as data, and code outside packages
    packages     of this project that take part (see `code_digest`)
    """
    facts = [parameters, torch.__version__, code_digest(packages)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def arithmetic_of(device: torch.device) -> dict[str, str | int]:
    """What decides how this process rounds, as plain values: results of processes where it is equal may be mixed."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    return {
        "device": device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        **{name: os.environ.get(name, "") for name in ROUNDING_VARIABLES},
    }


class SavedState:
    """The last saved state of one computation in one file, valid for the fingerprint that it was saved with."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key

    def load(self) -> dict[str, Any] | None:
        """The saved state, tensors on the CPU. None where there is none; and, said in a line, where it is not valid."""
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
        state: dict[str, Any] = content["state"]
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file by `state`, tensors and plain values. Raises PilotError if it cannot be written."""
        write_bytes(self.path, pack({"key": self.key, "state": state}))

    def remove(self) -> None:
        """Remove the state, as the computation has succeeded, and the folder with the last state in it."""
        self.path.unlink(missing_ok=True)
        remove_leftovers(self.path)
        with contextlib.suppress(OSError):  # not empty
            self.path.parent.rmdir()
