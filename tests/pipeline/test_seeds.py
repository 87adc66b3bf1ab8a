import json

import pytest
from support.seed_results import BEST_SETS, TRAIN, counterfactual

from stages import seeds
from stages.seeds import Revision

CODE = {"train: pilot/training": "aa", "counterfactual: csrc": "bb"}


def params(seed: int, **changes) -> dict:
    return {"train": {"seed": seed, "num_epochs": 20, **changes}, "patch": {"seed": 0}}


def run(monkeypatch, tmp_path, results: dict) -> int:
    monkeypatch.setattr(seeds, "read_revision", results.__getitem__)
    return seeds.main([*results, "--output", str(tmp_path / "seeds.json")])


def test_revisions_are_set_side_by_side(tmp_path, monkeypatch, capsys):
    results = {
        "HEAD": Revision(params(0), TRAIN, counterfactual(0.5), BEST_SETS, CODE),
        "other": Revision(params(7), TRAIN, counterfactual(0.25), BEST_SETS, CODE),
    }
    assert run(monkeypatch, tmp_path, results) == 0
    written = json.loads((tmp_path / "seeds.json").read_text())
    assert {name: values["shapley.denoising.L0"] for name, values in written.items()} == {"seed 0": 0.75, "seed 7": 0.5}
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("shapley.denoising.L0"))
    assert line.split() == ["shapley.denoising.L0", "0.750", "0.500"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (params(0), "other: another of these revisions has training seed 0 too"),
        (params(1, num_epochs=5), "other: its params.yaml differs from HEAD's in more than train.seed"),
    ],
)
def test_revisions_that_differ_in_no_seed_or_in_more_are_refused(tmp_path, monkeypatch, capsys, other, message):
    results = {
        "HEAD": Revision(params(0), TRAIN, counterfactual(0.5), BEST_SETS, CODE),
        "other": Revision(other, TRAIN, counterfactual(0.5), BEST_SETS, CODE),
    }
    assert run(monkeypatch, tmp_path, results) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not list(tmp_path.iterdir())


def test_results_without_shapley_values_are_refused(tmp_path, monkeypatch, capsys):
    results = counterfactual(0.5)
    del results["shapley"]
    assert run(monkeypatch, tmp_path, {"HEAD": Revision(params(0), TRAIN, results, BEST_SETS, CODE)}) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: HEAD: metrics/counterfactual.json lacks 'shapley'; run it with")
    assert not list(tmp_path.iterdir())


def test_an_unknown_revision_is_one_line(capsys):
    assert seeds.main(["no-such-revision"]) == 2
    error = capsys.readouterr().err
    assert "no-such-revision: its results cannot be read" in error
    assert error.count("\n") == 1


def test_results_of_other_code_are_refused(tmp_path, monkeypatch, capsys):
    """A rule or an operator that changed since would pass for an effect of the seed."""
    results = {
        "HEAD": Revision(params(0), TRAIN, counterfactual(0.5), BEST_SETS, CODE),
        "seed-7": Revision(params(7), TRAIN, counterfactual(0.5), BEST_SETS, {**CODE, "counterfactual: csrc": "cc"}),
    }
    assert run(monkeypatch, tmp_path, results) == 2
    assert capsys.readouterr().err == (
        "error: seed-7: its results were made by other code than HEAD's (counterfactual: csrc); make them again: "
        "dvc exp run --temp -f -n seed-7 -S train.seed=7 counterfactual\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_code_of_a_run_is_what_its_lock_says(monkeypatch):
    committed = seeds.read_revision("HEAD").code
    assert "counterfactual: csrc" in committed
    assert "train: pilot/training" in committed
    assert not any(key.split(": ")[1].startswith(("data", "runs", "metrics")) for key in committed)
