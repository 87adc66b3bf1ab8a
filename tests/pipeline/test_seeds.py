import json

import pytest
from support.seed_results import BEST_SETS, TRAIN, counterfactual

from stages import seeds


def params(seed: int, **changes) -> dict:
    return {"train": {"seed": seed, "num_epochs": 20, **changes}, "patch": {"seed": 0}}


def run(monkeypatch, tmp_path, results: dict) -> int:
    monkeypatch.setattr(seeds, "read_revision", results.__getitem__)
    return seeds.main([*results, "--output", str(tmp_path / "seeds.json")])


def test_revisions_are_set_side_by_side(tmp_path, monkeypatch, capsys):
    results = {
        "HEAD": (params(0), TRAIN, counterfactual(0.5), BEST_SETS),
        "other": (params(7), TRAIN, counterfactual(0.25), BEST_SETS),
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
        "HEAD": (params(0), TRAIN, counterfactual(0.5), BEST_SETS),
        "other": (other, TRAIN, counterfactual(0.5), BEST_SETS),
    }
    assert run(monkeypatch, tmp_path, results) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not list(tmp_path.iterdir())


def test_results_without_shapley_values_are_refused(tmp_path, monkeypatch, capsys):
    results = counterfactual(0.5)
    del results["shapley"]
    assert run(monkeypatch, tmp_path, {"HEAD": (params(0), TRAIN, results, BEST_SETS)}) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: HEAD: metrics/counterfactual.json lacks 'shapley'; run it with")
    assert not list(tmp_path.iterdir())


def test_an_unknown_revision_is_one_line(capsys):
    assert seeds.main(["no-such-revision"]) == 2
    error = capsys.readouterr().err
    assert "no-such-revision: its results cannot be read" in error
    assert error.count("\n") == 1
