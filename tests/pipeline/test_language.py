"""The language pipeline, from a model's folder to the pages, on a tiny model and a file of pairs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support.project import ROOT
from support.tiny_language import save_language_model, tiny_pairs

from pilot.language.pairs import write_text_pairs

TINY = {
    "select": {"players": 3, "resamples": 200},
    "counterfactual": {"resamples": 400, "random_sets": 2, "exhaustive_pairs": 3},
    "attribution": {
        "pairs": 3,
        "methods": ["atp_recipient", "ig_inputs_1"],
        "set_pairs": 3,
        "budgets": [8],
        "repeats": 2,
    },
    "examples": {"pairs": 1},
}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A copy of language/ under another name, for a model and pairs of one's own, in a repository with the code."""
    project = tmp_path_factory.mktemp("clone") / "project"
    for name in ("pilot", "stages", "csrc", ".dvc", "language"):
        ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local", "dvc.lock")
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    (project / "runs").mkdir()
    shutil.copy(ROOT / "runs" / ".gitignore", project / "runs")
    shutil.move(project / "language", project / "own")
    folder = project / "own"
    save_language_model(project / "models" / "tiny")
    write_text_pairs(folder / "pairs" / "drinks.jsonl", tiny_pairs())
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params |= {"name": "own", "tasks": ["drinks"]}
    params["weights"]["path"] = "../models/tiny"
    for section, values in TINY.items():
        params[section].update(values)
    yaml.dump(params, folder / "params.yaml")
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    return folder


def repro(folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder.parent), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_copy_of_the_folder_analyses_a_model_of_ones_own(own):
    shown = repro(own)
    assert "../models/tiny: LlamaForCausalLM, 0 million weights, 2 layers of 4 heads" in shown
    metrics, runs = (own.parent / folder / "own" / "drinks" for folder in ("metrics", "runs"))
    assert json.loads((metrics / "pairs.json").read_text())["confirm"]["usable"] == 6
    assert len(json.loads((metrics / "selection.json").read_text())["player"]) == 3
    results = json.loads((metrics / "counterfactual.json").read_text())
    assert results["effects"]["giver"]["denoising"]["all_heads"]["recovery"]["value"] == pytest.approx(1, abs=1e-3)
    assert set(json.loads((metrics / "attribution.json").read_text())["sets"]) == {"denoising", "noising"}
    assert (metrics / "figures" / "attribution.png").exists()
    assert (metrics / "figures" / "summary.png").exists()
    assert "drinks" in (runs / "report.html").read_text()
    assert (own.parent / "runs" / "own_overview.html").exists()
    assert not (own.parent / "runs" / ".state").exists()
    assert "Running stage" not in repro(own)
