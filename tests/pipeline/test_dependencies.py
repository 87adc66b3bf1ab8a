"""What the code imports is what pyproject.toml declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from support.project import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"pilot", "stages", "tests", "support"}
TOOLS = {
    "clang-format",
    "import-linter",
    "mypy",
    "ninja",
    "pytest-benchmark",
    "ruff",
    "setuptools",
}  # run, not imported


def names(requirements: list[str]) -> set[str]:
    named = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}
    return named - {PROJECT["name"]}  # an extra may take another one in


def imported(folder: str) -> set[str]:
    """The distributions that the Python files in a folder import."""
    modules = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module)
    top = {module.partition(".")[0] for module in modules} - OWN - set(sys.stdlib_module_names)
    of = packages_distributions()
    return {of[name][0].lower() if name in of else name.replace("_", "-") for name in top}


RUNTIME = names(PROJECT["dependencies"])
DEVELOPMENT, LANGUAGE, PEERS = (
    names(PROJECT["optional-dependencies"][extra]) - {PROJECT["name"]}  # which takes one extra into another
    for extra in ("dev", "language", "peers")
)


@pytest.mark.parametrize(
    ("folder", "declared"),
    [("pilot", RUNTIME | LANGUAGE), ("stages", RUNTIME), ("tests", RUNTIME | DEVELOPMENT | LANGUAGE | PEERS)],
)
def test_what_is_imported_is_declared(folder, declared):
    assert imported(folder) - declared == set()


def test_what_is_declared_is_used():
    used = imported("pilot") | imported("stages")
    assert RUNTIME - TOOLS - used == set()
    assert {name for name in DEVELOPMENT if not name.startswith("types-")} - TOOLS - imported("tests") == set()


def test_every_declared_package_has_the_version_that_it_is_tested_with():
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert (RUNTIME | DEVELOPMENT | LANGUAGE | PEERS) - pinned == set()
