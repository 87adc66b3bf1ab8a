import json

import pytest

from pilot.errors import PilotError
from stages import seeds

TRAIN = {"test": {"flat": {"exact_match": 0.97, "last_digit": 0.98}, "paren": {"exact_match": 0.95}}, "seconds": 600}


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
    assert seeds.flatten(seeds.summary("HEAD", TRAIN, counterfactual(0.5))) == {
        "exact_match.flat": 0.97,
        "exact_match.paren": 0.95,
        "top_k_recovery.regroup.denoising": 0.5,
        "top_k_recovery.regroup.noising": 0.5,
        "shapley.denoising.L0": 0.75,
        "shapley.denoising.L1": 0.25,
        "heads.sufficient": 1,
        "heads.necessary": 2,
    }


def test_revisions_are_set_side_by_side(tmp_path, monkeypatch, capsys):
    results = {"HEAD": (TRAIN, counterfactual(0.5)), "seed-1": (TRAIN, counterfactual(0.25))}
    monkeypatch.setattr(seeds, "read_metrics", results.__getitem__)
    assert seeds.main(["HEAD", "seed-1", "--output", str(tmp_path / "seeds.json")]) == 0
    written = json.loads((tmp_path / "seeds.json").read_text())
    assert {name: values["shapley.denoising.L0"] for name, values in written.items()} == {"HEAD": 0.75, "seed-1": 0.5}
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("shapley.denoising.L0"))
    assert line.split() == ["shapley.denoising.L0", "0.750", "0.500"]


def test_results_without_shapley_values_are_refused():
    results = counterfactual(0.5)
    del results["shapley"]
    with pytest.raises(PilotError, match=r"HEAD: metrics/counterfactual\.json lacks 'shapley'; run it with"):
        seeds.summary("HEAD", TRAIN, results)


def test_an_unknown_revision_is_one_line(capsys):
    assert seeds.main(["no-such-revision"]) == 2
    error = capsys.readouterr().err
    assert "no-such-revision: its metrics cannot be read" in error
    assert error.count("\n") == 1
