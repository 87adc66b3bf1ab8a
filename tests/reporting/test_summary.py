"""The summary of made-up results (tests/report_cases.py): 2 layers of 2 heads, L0H1 and L1H1 selected."""

import pytest
from support.report_cases import write_metrics

from pilot.reporting.results import read_results
from pilot.reporting.summary import summary

# Shares of 1, 5, 0.8 and 5 in 11.8.
RECOVERY = {name: pytest.approx(share / 11.8) for name, share in dict(L0H0=1, L0H1=5, L1H0=0.8, L1H1=5).items()}


@pytest.fixture
def folder(tmp_path):
    write_metrics(tmp_path)
    return tmp_path


def test_the_main_numbers_of_every_file(folder):
    results = read_results(folder)
    found = summary(results)
    assert found["accuracy"] == results["ablation"]["baseline"]
    assert found["impact"] == RECOVERY
    assert found["selected"] == {"L0H0": 0, "L0H1": 1, "L1H0": 0, "L1H1": 1}
    assert found["recovery"] == found["shapley"] == {"denoising": RECOVERY, "noising": RECOVERY}
    assert found["pairs"] == {"regroup": 430, "operator": 430, "operand": 430}
    assert list(found["sets"]) == ["regroup", "operator", "operand"]
    top = results["counterfactual"]["effects"]["operand"]["noising"]["top_k"]
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
    assert list(summary(read_results(folder))) == ["accuracy", "impact", "selected", "repair"]
