import pytest
from support.report_cases import write_metrics

from pilot.errors import PilotError
from pilot.reporting.results import head_table, read_results, selected_heads, set_name


@pytest.fixture
def folder(tmp_path):
    write_metrics(tmp_path)
    return tmp_path


def test_missing_results_are_empty_where_a_run_may_lack_them(folder):
    for name in ("counterfactual.json", "planted.json", "seeds.json", "trajectory.csv"):
        (folder / name).unlink()
    results = read_results(folder)
    assert results["counterfactual"] == results["planted"] == results["seeds"] == {}
    assert results["trajectory"] == []
    assert results["training"][0] == {
        "epoch": "1",
        "loss": "2.0",
        "val_flat": "0.1",
        "val_paren": "0.09090909090909091",
    }


@pytest.mark.parametrize(("name", "stage"), [("ablation.json", "ablate"), ("training.csv", "train")])
def test_missing_results_that_every_run_has_are_an_error(folder, name, stage):
    (folder / name).unlink()
    with pytest.raises(PilotError, match=rf"{name}: .*dvc repro (-f )?{stage}"):
        read_results(folder)


def test_the_selected_heads_stand_by_rank(folder):
    results = read_results(folder)
    assert selected_heads(results) == ["L0H1", "L1H1"]
    results["selection"]["heads"]["L1H1"]["rank"] = 0
    assert selected_heads(results) == ["L1H1", "L0H1"]


def test_sets_of_heads_have_names(folder):
    results = read_results(folder)
    assert set_name("top_k", results) == "the 2 selected heads"
    assert set_name("top_k@0:6", results) == "the 2 selected, positions 0:6"
    assert set_name("random_k", results) == "2 heads drawn at random"
    assert set_name("L0H0", results) == "L0H0"


def test_the_table_for_dvc_has_a_line_for_each_head_and_measure(folder):
    lines = head_table(read_results(folder)).splitlines()
    assert lines[0] == "layer,head,measure,value"
    assert len(lines) == 1 + 4 * (3 * 2 + 2)  # heads, times ablations of both kinds and the two directions
    assert lines[1].startswith('0,0,"zero ablation, flat",0.04')
    (folder / "counterfactual.json").unlink()
    assert len(head_table(read_results(folder)).splitlines()) == 1 + 4 * 6


def test_a_damaged_comparison_of_seeds_names_the_way_out(folder):
    (folder / "seeds.json").write_text("{")
    with pytest.raises(
        PilotError, match=r"seeds\.json: damaged; restore it, or make it again: python -m stages\.seeds"
    ):
        read_results(folder)
