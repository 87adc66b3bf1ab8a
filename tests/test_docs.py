"""The README and docs/ stay true: their Python runs, their commands and options exist, their links lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import tomllib

import pytest
from support.docs import PAGES, code_blocks, commands
from support.project import ROOT

from pilot.runtime.schema import load_yaml

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@each_page
def test_python_runs_from_top_to_bottom(page, trained, tmp_path, monkeypatch):
    (tmp_path / "runs/pilot").mkdir(parents=True)
    shutil.copy(trained.checkpoint, tmp_path / "runs/pilot")
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for block in code_blocks(page, "python"):
        exec(compile(block, page.name, "exec"), namespace)


def _stage(command: str) -> str | None:
    """The module that a command runs, if it is one of ours."""
    words = shlex.split(command)
    if words[0] in SCRIPTS:
        return SCRIPTS[words[0]].split(":")[0]
    return next((word for word in words if word.startswith(("stages.", "pilot."))), None) if "-m" in words else None


@each_page
def test_options_of_our_commands_exist(page, capsys):
    for command in filter(_stage, commands(page)):
        main = importlib.import_module(_stage(command)).main
        options = re.findall(r" (--[a-z-]+)", command.partition(_stage(command))[2] or command)
        if options:
            with pytest.raises(SystemExit):
                main(["--help"])
            known = capsys.readouterr().out
            assert [option for option in options if option not in known] == [], command


@each_page
def test_parameters_set_on_the_command_line_exist(page):
    params = load_yaml(ROOT / "params.yaml")
    for section, key in re.findall(r"-S (\w+)\.(\w+)=", "\n".join(commands(page))):
        assert key in params[section]


@each_page
def test_make_targets_exist(page):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"\bmake ([a-z]+)\b", "\n".join([*commands(page), *_quoted(page)])):
        assert target in targets


def _quoted(page) -> list[str]:
    return re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))


@each_page
def test_links_lead_to_files_of_the_repository(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@each_page
def test_named_files_exist(page):
    """Of what stands between backquotes, paths into the folders that are in the repository."""
    for path in _quoted(page):
        if re.fullmatch(r"(pilot|stages|csrc|tests|docs|metrics|\.ci)/[\w./-]*", path):
            assert (ROOT / path).exists(), path
