"""README, CONTRIBUTING and docs/ stay true: their Python runs, and what they name exists."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest
from support.docs import PAGES, code_blocks, commands, quoted
from support.project import ROOT
from support.tiny_language import save_language_model

from pilot.runtime.schema import read_params

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
each_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language_model")
    save_language_model(folder)
    return folder


@each_page
def test_python_runs_from_top_to_bottom(page, trained, language_model, tmp_path, monkeypatch):
    (tmp_path / "runs/pilot").mkdir(parents=True)
    shutil.copy(trained.checkpoint, tmp_path / "runs/pilot")
    shutil.copytree(language_model, tmp_path / "models/smollm2")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in code_blocks(PAGES[page], "python"):
        exec(compile(block, page, "exec"), namespace)


@each_page
def test_options_of_our_commands_exist(page, monkeypatch, capsys):
    for command in commands(PAGES[page]):
        program, *arguments = re.sub(r".*-m (?=stages\.)", "", command).split()
        if program in SCRIPTS:
            main = EntryPoint(program, SCRIPTS[program], "console_scripts").load()
        elif program.startswith("stages."):
            main = importlib.import_module(program).main
        else:
            continue
        monkeypatch.setattr(sys, "argv", [program, "--help"])
        with pytest.raises(SystemExit):
            main()
        known = re.findall(r"--[a-z-]+", capsys.readouterr().out)
        assert {argument for argument in arguments if argument.startswith("--")} <= set(known), command


@each_page
def test_parameters_on_the_command_line_exist(page):
    params = read_params(ROOT / "params.yaml")
    for section, key in re.findall(r"-S (\w+)\.(\w+)=", PAGES[page]):
        assert key in params[section]


@each_page
def test_make_targets_exist(page):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in [*commands(PAGES[page]), *quoted(PAGES[page])]:
        if command.startswith("make "):
            assert command.split()[1] in targets


@each_page
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)", PAGES[page]):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target


@each_page
def test_named_files_exist(page):
    for path in quoted(PAGES[page]):
        if re.match(r"(pilot|stages|csrc|tests|docs|metrics|\.ci)/", path):
            assert (ROOT / path).exists(), path
