import csv
import json

import numpy as np
import pytest
from support.project import write_params

from pilot.experiments.attribution import comparison
from pilot.experiments.attribution.blindness import CIRCUITS
from pilot.experiments.attribution.comparison import compare_heads, compare_sets
from pilot.experiments.attribution.methods import Attribution, attribution_methods
from pilot.experiments.attribution.sets import additive, regret, top_sets
from pilot.experiments.subsets import SubsetEffects
from pilot.interventions import HeadPatch
from pilot.runtime.files import read_json
from stages import attribution

GAP = np.array([2.0, 4.0])
HEADS = tuple(HeadPatch(0, head) for head in range(4))


def as_changes(recovery) -> np.ndarray:
    return np.asarray(recovery)[:, None] * GAP


def test_heads_are_held_against_the_exact_result():
    exact = Attribution(as_changes([0.5, 0.3, 0.1]), 5.0)
    scores = compare_heads(
        {"found": Attribution(as_changes([0.5, 0.3, 0.4]), 3.0), "exact": exact}, GAP, 1, 0.1, 200, 0
    )
    assert scores["found"]["cost"] == 3.0
    assert scores["found"]["worst"]["value"] == pytest.approx(0.3)
    assert scores["exact"]["error"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def compared(worth, held_out, singles, **options) -> dict:
    """Of sets whose effects are the same on every pair."""
    found = {"exact": Attribution(as_changes(singles), 6.0)}
    subsets = (SubsetEffects(HEADS, as_changes(values), GAP) for values in (worth, held_out))
    return compare_sets(found, *subsets, **{"budgets": [8], "repeats": 20, "resamples": 100, "seed": 0} | options)


def test_where_effects_add_up_single_heads_say_all():
    scores = [0.4, 0.3, 0.2, 0.1]
    worth = additive(np.array(scores))
    result = compared(worth, worth, scores)
    assert {key for key, value in result["predicted"].items() if value["worst"]["value"] < 1e-6} == {"exact", "shapley"}
    assert set(result["chosen"]) == {"exact", "shapley", "greedy", "exhaustive"}
    for lost in result["chosen"].values():
        for measure in ("mean", "worst"):
            assert lost[measure] == pytest.approx({"value": 0, "low": 0, "high": 0}, abs=1e-6)
    assert result["shapley"]["permutations"]["8"] == {"sets": 2 * 3 + 2, "error": pytest.approx(0, abs=1e-6)}


def test_heads_that_only_work_together_are_missed_by_single_ones():
    worth = additive(np.array([0.0, 0.0, 0.1, 0.0]))
    worth[[mask for mask in range(16) if mask & 3 == 3]] += 0.8
    result = compared(worth, worth, [0, 0, 0.1, 0], budgets=[4, 256])
    assert result["predicted"]["exact"]["worst"]["value"] == pytest.approx(0.8)
    assert result["chosen"]["exact"]["worst"]["value"] == pytest.approx(0.7)
    assert result["chosen"]["exhaustive"]["worst"]["value"] == pytest.approx(0)
    for budgets in result["shapley"].values():
        assert budgets["256"]["error"] < budgets["4"]["error"] / 2


def test_exhaustive_choices_pay_for_what_only_held_on_their_own_pairs():
    rng = np.random.default_rng(0)
    result = compared(rng.random(16), rng.random(16), [0.1, 0.2, 0.3, 0.4])
    assert result["chosen"]["exhaustive"]["mean"]["value"] > 0


def test_intervals_of_sets_are_over_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    gap = rng.uniform(1, 3, 24)
    single = rng.normal(0.3, 0.3, (4, 24)) * gap
    select, confirm = (
        SubsetEffects(HEADS, (additive(single) + rng.normal(0.1, 0.2, (16, 24)) * gap).astype(np.float32), gap)
        for _ in range(2)
    )
    found = {"exact": Attribution(single, 6.0)}
    result = compare_sets(found, select, confirm, [8], repeats=2, resamples=400, seed=0)
    for name, estimate in result["predicted"]["exact"].items():
        assert estimate["low"] < estimate["value"] < estimate["high"], name
    error = (additive(single) - select.change).sum(1) / gap.sum()
    assert result["predicted"]["exact"]["error"]["value"] == pytest.approx(np.sqrt((error**2).mean()))
    assert result["predicted"]["exact"]["worst"]["value"] == pytest.approx(np.abs(error).max())
    for name, estimate in result["chosen"]["exact"].items():
        assert estimate["low"] <= estimate["value"] <= estimate["high"], name
    lost = regret(confirm.mean_recovery, top_sets(single.sum(1)))
    assert result["chosen"]["exact"]["mean"]["value"] == pytest.approx(lost[1:-1].mean())
    assert result["chosen"]["exact"]["worst"]["value"] == pytest.approx(lost.max())
    monkeypatch.setattr(comparison, "MOST_AT_A_TIME", 100)
    in_blocks = compare_sets(found, select, confirm, [8], repeats=2, resamples=400, seed=0)
    for name, estimate in result["predicted"]["exact"].items():
        assert in_blocks["predicted"]["exact"][name] == pytest.approx(estimate)


def run(trained, folder, **changes) -> int:
    params = write_params(folder / "params.yaml", **changes)
    pairs = trained.data / "pilot_pairs.jsonl"
    arguments = ["--config", params, "--checkpoint", trained.checkpoint, "--pairs", pairs, "--metrics-dir", folder]
    return attribution.main([*map(str, arguments), "--device", "cpu"])


def test_the_stage_writes_and_prints_what_was_found(trained, tmp_path, capsys):
    assert run(trained, tmp_path) == 0
    written = read_json(tmp_path / "attribution.json", made_by="attribution")
    json.dumps(written, allow_nan=False)
    methods = {*attribution_methods([1, 3]), "exact"}
    assert set(written["heads"]["regroup"]) == set(written["sets"]) == {"denoising", "noising"}
    assert set(written["heads"]["regroup"]["noising"]) == methods
    assert set(written["sets"]["noising"]["predicted"]) == methods | {"shapley"}
    assert set(written["planted"]) == set(CIRCUITS)
    with open(tmp_path / "attribution.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(written["heads"]) * 2 * len(methods) * 9
    assert all(float(row["error"]) == 0 for row in rows if row["method"] == "exact")
    assert "held against exact patching" in capsys.readouterr().out
    first = (tmp_path / "attribution.json").read_bytes()
    assert run(trained, tmp_path) == 0
    assert (tmp_path / "attribution.json").read_bytes() == first


def test_the_stage_leaves_sets_out_where_they_are_off(trained, tmp_path):
    assert run(trained, tmp_path, counterfactual={"exhaustive": False}) == 0
    assert "sets" not in read_json(tmp_path / "attribution.json", made_by="attribution")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": []}, "params.yaml: attribution.steps"),
        ({"steps": [0]}, "params.yaml: attribution.steps"),
        ({"pairs": 1}, "params.yaml: attribution.pairs"),
        ({"budgets": [1]}, "params.yaml: attribution.budgets"),
    ],
)
def test_the_stage_refuses_numbers_that_are_out_of_range(changes, message, trained, tmp_path, capsys):
    assert run(trained, tmp_path, attribution=changes) == 2
    assert message in capsys.readouterr().err
