"""Where results come from: versions and the hashes of data files. Nothing that differs between two equal runs."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from pilot.runtime.files import read_text

PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "plotly", "dvc")


def versions() -> dict[str, str]:
    """The versions of Python, of this project where it is installed and of what its results depend on; the system."""
    return {
        "Python": platform.python_version(),
        **{package: found for package in ("pilot-patching", *PACKAGES) if (found := _version(package))},
        "system": f"{platform.system()} {platform.machine()}",
    }


def data_hashes(folder: Path, lock: Path) -> dict[str, str]:
    """The md5 of every data file in `folder`, by name; where there is none, of those that DVC's lock file names."""
    files = sorted(folder.glob("*.jsonl"))
    if files:
        return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in files}
    if not lock.exists():
        return {}
    outs = yaml.load(read_text(lock), yaml.BaseLoader)["stages"]["generate"]["outs"]
    return {Path(out["path"]).name: out["md5"] for out in outs}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
