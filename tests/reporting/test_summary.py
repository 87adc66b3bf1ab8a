"""The summary of made-up results (tests/report_cases.py): 2 layers of 2 heads, L0H1 and L1H1 selected."""

import pytest
from support.report_cases import write_metrics

from pilot.reporting.measurements import read_measurements
from pilot.reporting.summary import HEAD_COLUMNS, head_rows, summary

# Shares of 1, 5, 0.8 and 5 in 11.8.
RECOVERY = {name: pytest.approx(share / 11.8) for name, share in dict(L0H0=1, L0H1=5, L1H0=0.8, L1H1=5).items()}


@pytest.fixture
def folder(tmp_path):
    write_metrics(tmp_path)
    return tmp_path


def test_the_main_numbers_of_every_file(folder):
    measured = read_measurements(folder)
    found = summary(measured)
    assert found["accuracy"] == measured.ablation["baseline"]
    assert found["impact"] == RECOVERY
    assert found["selected"] == {"L0H0": 0, "L0H1": 1, "L1H0": 0, "L1H1": 1}
    assert found["recovery"] == found["shapley"] == {"denoising": RECOVERY, "noising": RECOVERY}
    assert found["pairs"] == {"regroup": 430, "operator": 430, "operand": 430}
    assert list(found["sets"]) == ["regroup", "operator", "operand"]
    top = measured.counterfactual["effects"]["operand"]["noising"]["top_k"]
    assert found["sets"]["operand"]["noising"] == {
        "recovery": top["recovery"]["value"],
        "wrong_donor": top["wrong_donor"]["value"],
        "flip_rate": top["flip_rate"]["value"],
    }
    assert found["best_sets"]["noising"] == {"best": pytest.approx(1), "ablation": pytest.approx(1), "average": 1}
    assert found["verdict"] == {"sufficient": 2, "necessary": 1, "redundant": 0}
    assert list(found["repair"]) == ["right_to_wrong", "wrong_to_wrong"]


def test_what_a_run_lacks_is_left_out(folder):
    for name in ("counterfactual.json", "best_sets.csv"):
        (folder / name).unlink()
    assert list(summary(read_measurements(folder))) == ["accuracy", "impact", "selected", "repair"]


def test_the_table_of_heads_has_a_row_for_each_head_and_measure(folder):
    rows = head_rows(read_measurements(folder))
    assert len(rows) == 4 * (3 * 2 + 2)  # heads, times ablations of both kinds and the two directions
    assert rows[0] == {"layer": 0, "head": 0, "measure": "zero ablation, flat", "value": pytest.approx(0.5 / 11.8)}
    assert tuple(rows[0]) == HEAD_COLUMNS
    assert rows[-1] == {"layer": 1, "head": 1, "measure": "noising", "value": RECOVERY["L1H1"]}
    (folder / "counterfactual.json").unlink()
    assert len(head_rows(read_measurements(folder))) == 4 * 6
