"""What several test files need: tiny parameters, and the project's own files."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]

# A grammar and a model that train in seconds to some right and some wrong answers.
TINY = {
    "data": {
        "max_operand": 4,
        "operators": "+-",
        "max_operands": 3,
        "train_size": 2000,
        "val_size": 40,
        "test_size": 60,
        "pairs_per_edit": 60,
    },
    "model": {"n_layers": 3, "n_heads": 3, "d_model": 48, "d_mlp": 64},
    "train": {
        "num_epochs": 3,
        "examples_per_epoch": 5000,
        "batch_size": 64,
        "muon_lr": 0.02,
        "warmup_steps": 5,
        "snapshot_epochs": [1],
    },
    "ablate": {"resamples": 200},
    "select": {"top_k": 2},
    "patch": {"resamples": 200, "random_sets": 5, "exhaustive_pairs": 6},
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


def imported_files(module_file: Path) -> set[Path]:
    """The project files that running `module_file` imports, itself included; blocks for type checkers do not count."""
    found, queue = set(), [module_file]
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
                path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
                if path.is_file():
                    queue.append(path)
    return found


def _runtime_nodes(node: ast.AST):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _runtime_nodes(child)


if __name__ == "__main__":  # the code deps of a stage, ready for dvc.yaml: python tests/project.py stages/train.py
    for dependency in sorted(imported_files(ROOT / sys.argv[1])):
        print(f"      - {dependency.relative_to(ROOT).as_posix()}")
