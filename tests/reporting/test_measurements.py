import pytest
from support.report_cases import write_metrics

from pilot.errors import PilotError
from pilot.reporting.measurements import read_measurements
from pilot.runtime.files import read_json, write_json


@pytest.fixture
def folder(tmp_path):
    write_metrics(tmp_path)
    return tmp_path


def test_missing_files_are_empty_where_a_run_may_lack_them(folder):
    for name in ("counterfactual.json", "planted.json", "seeds.json", "trajectory.csv"):
        (folder / name).unlink()
    measured = read_measurements(folder)
    assert measured.counterfactual == measured.planted == measured.seeds == {}
    assert measured.trajectory == []
    first = {"epoch": "1", "loss": "2.0", "val_flat": "0.1", "val_paren": "0.09090909090909091"}
    assert measured.training[0] == first


@pytest.mark.parametrize(
    ("name", "stage"), [("ablation.json", "ablate"), ("patching.json", "patch"), ("training.csv", "train")]
)
def test_missing_files_that_every_run_has_are_an_error(folder, name, stage):
    (folder / name).unlink()
    with pytest.raises(PilotError, match=rf"{name}: .*dvc repro (-f )?{stage}"):
        read_measurements(folder)


def test_repair_is_what_the_stage_patch_wrote(folder):
    assert read_measurements(folder).repair["wrong_answers"] == 10


def test_a_checkpoint_too_early_for_a_verdict_has_no_patching_to_show(folder):
    counterfactual = read_json(folder / "counterfactual.json", made_by="counterfactual")
    del counterfactual["verdict"]  # pairs of the confirm split were answered right, none of the select split
    write_json(folder / "counterfactual.json", counterfactual)
    assert read_measurements(folder).counterfactual == {}


def test_the_selected_heads_stand_by_rank(folder):
    measured = read_measurements(folder)
    assert measured.selected == ["L0H1", "L1H1"]
    measured.selection["heads"]["L1H1"]["rank"] = 0
    assert measured.selected == ["L1H1", "L0H1"]


def test_a_damaged_comparison_of_seeds_names_the_way_out(folder):
    (folder / "seeds.json").write_text("{")
    with pytest.raises(
        PilotError, match=r"seeds\.json: damaged; restore it, or make it again: python -m stages\.seeds"
    ):
        read_measurements(folder)
