"""The stage as a program: what it writes, and one clear line where it cannot."""

import json

import pytest
from support.project import ROOT
from support.report_cases import worked_examples, write_metrics

from stages import report


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_metrics(tmp_path / "metrics")
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return tmp_path


def test_the_page_the_figures_and_what_dvc_compares_are_written(workspace):
    (workspace / "runs").mkdir()
    (workspace / "runs/examples.json").write_text(json.dumps(worked_examples()))
    assert report.main([]) == 0
    assert "A worked example" in (workspace / "runs/report.html").read_text()
    written = {path.name for path in (workspace / "metrics/figures").iterdir()}
    assert {"best_sets.png", "recovery.png", "training.png"} <= written
    assert (
        (workspace / "metrics/heads.csv").read_text().startswith('layer,head,measure,value\n0,0,"zero ablation, flat",')
    )
    assert json.loads((workspace / "metrics/summary.json").read_text())["accuracy"] == {"flat": 0.97, "paren": 0.9}


def test_the_data_are_hashed_or_said_to_be_missing_whatever_the_lock_file_holds(workspace):
    (workspace / "dvc.lock").write_text("stages: {}\n")
    assert report.main([]) == 0
    assert "The data files were not there" in (workspace / "runs/report.html").read_text()
    (workspace / "data").mkdir()
    (workspace / "data/pilot_val.jsonl").write_bytes(b"abc")
    assert report.main([]) == 0
    assert "900150983cd24fb0d6963f7d28e17f72" in (workspace / "runs/report.html").read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics/train.json", "{}", "metrics: results of another version, or damaged (KeyError('test')); make them"),
        ("metrics/train.json", "{", "metrics/train.json:1: not JSON"),
        ("metrics/best_sets.csv", "direction,size\ndenoising,x\n", "metrics: results of another version, or damaged"),
        ("examples.json", '{"pairs": []}', "examples.json: not made by the stage examples; make it again: dvc repro"),
    ],
)
def test_what_is_damaged_is_named_in_one_line(workspace, capsys, name, content, message):
    (workspace / name).write_text(content)
    assert report.main(["--examples", "examples.json"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (workspace / "runs/report.html").exists()
