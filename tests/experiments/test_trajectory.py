import csv
import json
import shutil

import numpy as np
import pytest

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.arithmetic.examples import HALVES, read_examples
from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import prompts_of, token_pairs
from pilot.errors import PilotError
from pilot.experiments.trajectory import MEASURES, begins_to_matter, measure_heads, read_snapshots
from pilot.inputs.pairs import DIRECTIONS
from pilot.models.checkpoint import load_model, read_checkpoint, save_model
from pilot.reporting.params import load_params
from pilot.sweep import SweepEngine
from stages import ablate, counterfactual, select_heads, trajectory


@pytest.fixture(scope="module")
def results(trained, tmp_path_factory):
    """The folder that the stages trajectory, ablate, select and counterfactual wrote, of the last checkpoint."""
    folder = tmp_path_factory.mktemp("metrics")
    config, data = ["--config", str(trained.params)], ["--data-dir", str(trained.data)]
    last = ["--checkpoint", str(trained.runs / "checkpoint_last.pt"), "--device", "cpu"]
    files = {name: str(folder / f"{name}.json") for name in ("ablation", "selection")}
    there = ["--metrics-dir", str(folder)]
    assert trajectory.main([*config, *data, *there, "--run-dir", str(trained.runs), "--device", "cpu"]) == 0
    assert ablate.main([*config, *data, *last, "--output", files["ablation"]]) == 0
    assert select_heads.main([*config, "--ablation", files["ablation"], "--output", files["selection"]]) == 0
    pairs = ["--pairs", str(trained.data / "pilot_pairs.jsonl"), "--selection", files["selection"]]
    assert counterfactual.main([*config, *last, *pairs, *there]) == 0
    return folder


def read(path):
    return json.loads(path.read_text())


def test_the_last_epoch_says_what_the_analysis_of_that_checkpoint_says(results):
    last = read(results / "trajectory/epoch_003.json")
    impact = read(results / "ablation.json")["confirm_half"]["mean"]
    effects = read(results / "counterfactual.json")["effects"][MAIN_EDIT]
    assert len(last["ablation_paren"]) == 9
    for head, value in last["ablation_paren"].items():
        assert value == pytest.approx(impact[head]["paren"]["value"])
        for direction in DIRECTIONS:
            assert last[direction][head] == pytest.approx(effects[direction][head]["recovery"]["value"], abs=1e-4)


def test_the_table_holds_what_the_metrics_hold(results, trained):
    rows = list(csv.DictReader((results / "trajectory.csv").read_text().splitlines()))
    files = {int(path.stem.removeprefix("epoch_")): read(path) for path in (results / "trajectory").iterdir()}
    assert {int(row["epoch"]) for row in rows} == set(files) == {s.epoch for s in read_snapshots(trained.runs)}
    for row in rows:
        file = files[int(row["epoch"])]
        if row["head"]:
            expected = file[row["measure"]][row["head"]]
        elif row["measure"].startswith("val_"):
            expected = file["val"][row["measure"].removeprefix("val_")]
        else:
            expected = file[row["measure"]]
        assert float(row["value"]) == expected
    numbers = sum(len(values) if isinstance(values, dict) else 1 for file in files.values() for values in file.values())
    assert len(rows) == numbers
    summary = read(results / "trajectory.json")
    least = load_params(trained.params).counterfactual.min_effect
    assert summary["begins_to_matter"] == begins_to_matter(files, least)
    assert summary["pairs"] == read(results / "counterfactual.json")["pairs"][MAIN_EDIT]["confirm"]["usable"]


def test_snapshots_come_one_of_each_epoch_with_their_accuracies(trained, tmp_path):
    for name in ("best", "last", "epoch_001"):
        shutil.copy(trained.runs / f"checkpoint_{name}.pt", tmp_path)
    save_model(load_model(trained.checkpoint), tmp_path / "checkpoint_epoch_002.pt", **facts(2, 0.25))
    snapshots = read_snapshots(tmp_path)
    assert [snapshot.epoch for snapshot in snapshots] == [1, 2, 3]
    assert [snapshot.path.name for snapshot in snapshots[:2]] == ["checkpoint_epoch_001.pt", "checkpoint_epoch_002.pt"]
    assert snapshots[1].val == {"flat": 0.5, "paren": 0.25}
    assert snapshots[0].val == read_checkpoint(trained.runs / "checkpoint_epoch_001.pt")["metrics"]["val"]


def facts(epoch: int, paren: float) -> dict:
    return {"epoch": epoch, "metrics": {"val": {"flat": 0.5, "paren": paren}}}


def test_a_folder_without_snapshots_is_refused(small_model, tmp_path):
    with pytest.raises(PilotError, match=r"no checkpoints; train with: dvc repro train"):
        read_snapshots(tmp_path)
    save_model(small_model, tmp_path / "checkpoint_best.pt", epoch=1)
    with pytest.raises(PilotError, match=r"checkpoint_best\.pt: has no epoch and accuracies \(KeyError\('metrics'\)\)"):
        read_snapshots(tmp_path)


@pytest.fixture
def measured(trained):
    """`measure_heads` of the best model on lines and pairs that may be chosen, right or wrong."""
    engine = SweepEngine(load_model(trained.checkpoint))
    val = prompts_of(read_examples(trained.data / "pilot_val.jsonl"))
    lines = prompts_of(read_examples(trained.data / "pilot_test_paren.jsonl")[HALVES["confirm"]])
    return lambda pairs, min_logit_gap: measure_heads(engine, val, lines, pairs, min_logit_gap)


def test_recovery_is_left_out_where_the_gap_is_small(measured, trained):
    pairs = token_pairs(read_pairs(trained.data / "pilot_pairs.jsonl"))
    whole = measured(pairs, 0.0)
    assert set(whole) == {*MEASURES, "logit_gap"}
    assert 0 < whole["logit_gap"] < np.inf
    for limit, kept in ((whole["logit_gap"], set(DIRECTIONS)), (1.01 * whole["logit_gap"], set())):
        assert set(measured(pairs, limit)) == {"ablation_paren", "logit_gap"} | kept
    assert set(measured([], 0.0)) == {"ablation_paren"}


def test_a_head_begins_to_matter_where_it_stays_above_the_threshold():
    curves = {
        "L0H0": [0.2, 0.0, 0.3, 0.4],  # what comes before a fall does not count
        "L0H1": [0.9, 0.9, 0.9, 0.1],  # not above at the end
        "L0H2": [0.2, 0.2, 0.2, 0.2],
        "L0H3": [0.0, 0.0, 0.1, 0.11],
    }
    epochs = {
        epoch: {"ablation_paren": {head: curve[i] for head, curve in curves.items()}}
        for i, epoch in enumerate((1, 2, 5, 10))
    }
    epochs[10]["noising"] = epochs[2]["noising"] = {"L0H0": 0.5}
    begins = begins_to_matter(epochs, least=0.1)
    assert begins == {"ablation_paren": {"L0H0": 5, "L0H2": 1, "L0H3": 10}, "noising": {"L0H0": 10}}
