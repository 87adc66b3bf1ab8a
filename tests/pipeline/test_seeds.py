import json

import pytest

from pilot.errors import PilotError
from stages import seeds

TRAIN = {"test": {"flat": {"exact_match": 0.97, "last_digit": 0.98}, "paren": {"exact_match": 0.95}}, "seconds": 600}


BEST_SETS = [
    {"direction": direction, "size": size, "set": name, "value": value}
    for direction, size, name, value in [
        ("denoising", "4", "best", "0.8"),
        ("denoising", "4", "average", "0.4"),
        ("denoising", "3", "best", "0.7"),
        ("noising", "4", "best", "0.9"),
    ]
]


def counterfactual(first: float) -> dict:
    rows = {"top_k": {"recovery": {"value": first}}, "L0H0": {"recovery": {"value": 0.1}}}
    values = {"L0H0": first, "L0H1": 0.25, "L1H0": 0.75 - first}
    return {
        "effects": {"regroup": {"denoising": rows, "noising": rows}},
        "shapley": {"denoising": {name: {"value": value} for name, value in values.items()}},
        "verdict": {
            "L0H0": {"sufficient": 1, "necessary": 1},
            "L0H1": {"sufficient": 0, "necessary": 1},
            "L1H0": {"sufficient": 0, "necessary": 0},
        },
    }


def test_what_is_compared_does_not_depend_on_which_head_it_is():
    assert seeds.flatten(seeds.summary("HEAD", TRAIN, counterfactual(0.5), BEST_SETS)) == {
        "exact_match.flat": 0.97,
        "exact_match.paren": 0.95,
        "top_k_recovery.regroup.denoising": 0.5,
        "top_k_recovery.regroup.noising": 0.5,
        "recovery_of_4.best": 0.8,
        "recovery_of_4.average": 0.4,
        "shapley.denoising.L0": 0.75,
        "shapley.denoising.L1": 0.25,
        "largest_shapley.denoising": 0.5,
        "heads.sufficient": 1,
        "heads.necessary": 2,
    }


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


def test_results_without_shapley_values_are_refused():
    results = counterfactual(0.5)
    del results["shapley"]
    with pytest.raises(PilotError, match=r"HEAD: metrics/counterfactual\.json lacks 'shapley'; run it with"):
        seeds.summary("HEAD", TRAIN, results, BEST_SETS)


def test_an_unknown_revision_is_one_line(capsys):
    assert seeds.main(["no-such-revision"]) == 2
    error = capsys.readouterr().err
    assert "no-such-revision: its results cannot be read" in error
    assert error.count("\n") == 1
