"""What several test files need: tiny parameters, and the project's own files."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]

# A grammar and a model that train in seconds to some right and some wrong answers.
TINY = {
    "data": {
        "max_operand": 4,
        "operators": "+-",
        "max_operands": 3,
        "train_size": 900,
        "val_size": 40,
        "test_size": 60,
        "pairs_per_edit": 60,
    },
    "model": {"n_layers": 3, "n_heads": 3, "d_model": 48, "d_mlp": 64},
    "train": {
        "num_epochs": 3,
        "examples_per_epoch": 10000,
        "batch_size": 64,
        "muon_lr": 0.02,
        "warmup_steps": 5,
        "snapshot_epochs": [1, 2, 3],
    },
    "ablate": {"resamples": 200},
    "select": {"top_k": 2},
    "counterfactual": {"resamples": 1500, "random_sets": 5, "exhaustive_pairs": 6},
    "attribution": {
        "pairs": 8,
        "steps": [1, 3],
        "resamples": 200,
        "set_pairs": 4,
        "budgets": [16],
        "repeats": 3,
        "placements": 1,
        "planted_pairs": 6,
    },
    "planted": {
        "placements": 1,
        "pairs": [20],
        "nulls": 2,
        "null_pairs": 20,
        "simulations": 7,
        "coverage_pairs": [20],
        "power_effects": [0.9],
        "power_pairs": [8],
        "power_circuits": 2,
    },
}


def no_compiler() -> str | None:
    """Why tests of the operators are left out here; None where there is a compiler, and then they must build."""
    compiler = os.environ.get("CXX", "c++")
    return None if shutil.which(compiler) else f"no C++ compiler ({compiler}) to build the operators with"


def write_params(path: Path, **changes: dict) -> Path:
    """The project's params.yaml with TINY and `changes` (dicts by section) on top."""
    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    for sections in (TINY, changes):
        for section, values in sections.items():
            content[section].update(values)
    yaml.dump(content, path)
    return path


def imported_files(module_file: Path, root: Path = ROOT) -> set[Path]:
    """The project files that running `module_file` imports, itself included; blocks for type checkers do not count.

    root   of the project: its packages are folders there
    """
    found: set[Path] = set()
    queue = [module_file]
    while queue:
        file = queue.pop()
        if file in found:
            continue
        found.add(file)
        for node in _runtime_nodes(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                candidates = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                candidates = [alias.name for alias in node.names]
            else:
                continue
            for name in candidates:
                queue += _files_of(name, root)
    return found


def _files_of(module: str, root: Path) -> list[Path]:
    """The project files that run when `module` is imported: its own, and the __init__.py of every package above it."""
    parts = module.split(".")
    files = [root.joinpath(*parts).with_suffix(".py")]
    files += [root.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    return [file for file in files if file.is_file()]


def _runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _runtime_nodes(child)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system of its own at `folder`, where the machine lets one be mounted."""
    folder.mkdir(parents=True)
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("a file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
