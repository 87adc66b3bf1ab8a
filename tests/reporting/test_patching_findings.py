import pytest
from support.report_cases import write_metrics

from pilot.reporting.patching_findings import patching_exhibits
from pilot.reporting.results import read_results

NAMES = ["recovery", "sets", "verdict", "head_positions", "shapley", "interactions", "best_sets", "trajectory"]


@pytest.fixture
def results(tmp_path):
    write_metrics(tmp_path)
    return read_results(tmp_path)


def readings(results) -> dict[str, str]:
    return {exhibit.name: exhibit.reading for exhibit in patching_exhibits(results)}


def test_every_exhibit_has_a_reading_and_a_table(results):
    exhibits = patching_exhibits(results)
    assert [exhibit.name for exhibit in exhibits] == NAMES
    for exhibit in exhibits:
        assert exhibit.reading.endswith(".")
        assert all(len(row) == len(exhibit.table.header) for row in exhibit.table.rows)


def test_readings_are_computed(results):
    # Heads recover shares of 1, 5, 0.8 and 5 in 11.8, whichever way and whatever edit.
    told = readings(results)
    assert "by noising L0H1 (parentheses moved, 0.42), L0H1 (operator changed, 0.42)" in told["recovery"]
    assert "430 regroup, 430 operator and 430 operand" in told["recovery"]
    assert "by denoising 0.85 [0.80, 0.90], above the 0.00 [-0.05, 0.05] of another pair's" in told["sets"]
    assert "sufficient L0H1 and L1H1; necessary L0H1; redundant none" in told["verdict"]
    assert "by denoising L0H1 at position 5, ')' (0.42)" in told["head_positions"]
    assert "by denoising L0H1 and L1H1; by noising L0H1 and L1H1." in told["shapley"]
    assert "by denoising 2 (L0H1+L1H1, 0.85)" in told["best_sets"]
    assert "L0H1 by ablation impact (half of it by epoch 5)" in told["trajectory"]


def test_the_control_decides_what_is_said_of_the_selected_heads(results):
    effects = results["counterfactual"]["effects"]["regroup"]["denoising"]
    effects["top_k"]["wrong_donor"] = {"value": 0.8, "low": 0.75, "high": 0.85}
    assert "not clearly above the 0.80 [0.75, 0.85]" in readings(results)["sets"]


def test_interactions_name_who_needs_whom(results):
    for row in results["interactions"]:
        row["value"] = {("L0H0", "L1H0"): "0.2", ("L0H1", "L1H1"): "-0.3"}.get((row["head_a"], row["head_b"]), "0")
    assert "by denoising L0H0 and L1H0 (+0.200), L0H1 and L1H1 (-0.300)" in readings(results)["interactions"]


def test_positions_stand_under_their_symbols(results):
    plot = next(exhibit.plot for exhibit in patching_exhibits(results) if exhibit.name == "head_positions")
    assert list(plot.panels["denoising"]["L0H0"])[:3] == ["^\n0", "(\n1", "n\n2"]


def test_only_selected_and_leading_heads_are_in_colour(results):
    plot = next(exhibit.plot for exhibit in patching_exhibits(results) if exhibit.name == "trajectory")
    assert plot.muted == {"L0H0", "L1H0"}
    assert set(plot.panels) == {"ablation impact", "denoising", "noising"}


def test_half_may_never_be_reached(results):
    for row in results["best_sets"]:
        row["value"] = "0.1"
    assert "by denoising no number of heads" in readings(results)["best_sets"]


def test_an_edit_without_usable_pairs_is_left_out(results):
    del results["counterfactual"]["effects"]["operand"]
    recovery = patching_exhibits(results)[0]
    assert len(recovery.plot.panels) == 4
    assert "operand changed," not in recovery.reading


def test_what_is_missing_is_said(results):
    lacking = {name: [] for name in ("interactions", "best_sets", "head_positions", "trajectory")}
    exhibits = patching_exhibits({**results, **lacking, "counterfactual": {}})
    assert all(exhibit.table is None for exhibit in exhibits)
    assert "metrics/counterfactual.json is missing: run dvc repro counterfactual" in exhibits[0].reading


def test_without_all_sets_of_heads_the_rest_is_still_shown(results):
    del results["counterfactual"]["shapley"]
    for verdict in results["counterfactual"]["verdict"].values():
        del verdict["redundant"]
    shapley = next(exhibit for exhibit in patching_exhibits(results) if exhibit.name == "shapley")
    assert "counterfactual.exhaustive is off" in shapley.reading
    assert next(exhibit for exhibit in patching_exhibits(results) if exhibit.name == "recovery").table
