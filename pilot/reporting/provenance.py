"""What the results were made from: versions and hashes of data files. Nothing that differs between equal runs."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("pilot-patching", "torch", "numpy", "scipy", "matplotlib", "plotly", "dvc")


def versions() -> dict[str, str]:
    """The versions of Python and of the installed PACKAGES, and the system."""
    return {
        "Python": platform.python_version(),
        **{package: found for package in PACKAGES if (found := _version(package))},
        "system": f"{platform.system()} {platform.machine()}",
    }


def data_hashes(folder: Path) -> dict[str, str]:
    """The md5 of every data file in `folder`, by name: the hashes that DVC goes by."""
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.jsonl"))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
