"""The whole params.yaml: its sections are typed as the code needs them, and agree with each other."""

import pytest
from support.project import ROOT

from pilot.errors import PilotError
from pilot.reporting.params import load_params

TEXT = (ROOT / "params.yaml").read_text()


def test_the_committed_file_is_valid():
    params = load_params(ROOT / "params.yaml")
    assert params.data.grammar.max_operand == 9
    assert params.train.muon_lr < 1


def test_any_kept_checkpoint_can_be_analysed(tmp_path):
    path = tmp_path / "params.yaml"
    text = TEXT.replace("num_epochs: 20", "num_epochs: 5")
    path.write_text(text)
    kept = load_params(path).train.checkpoints
    assert kept == ["best", "last", "epoch_001", "epoch_002", "epoch_003", "epoch_005"]
    for name in kept:
        path.write_text(text.replace("checkpoint: best", f"checkpoint: {name}"))
        assert load_params(path).analysis.checkpoint == name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_epochs: ", "num_epoch: ", "train.num_epoch is not a known key; did you mean num_epochs"),
        ("data:", "date:", "date is not a known key; did you mean data"),
        ("  top_k: 3\n", "", "select.top_k is missing"),
        ("pairs_per_edit: 1000", "pairs_per_edit: 1", "data.pairs_per_edit: must be greater than or equal to 2, not 1"),
        ("ablation: mean", "ablation: median", "select.ablation: must be 'zero', 'mean' or 'resample', not 'median'"),
        ('"+-*"', '"+/"', r"data.operators: must hold some of \+ - \*, each once"),
        ("min_operands: 2", "min_operands: 6", "min_operands must not be larger than max_operands"),
        (
            "checkpoint: best",
            "checkpoint: epoch_004",
            r"analysis: checkpoint 'epoch_004' is none that training keeps \(best, last, epoch_001, .*epoch_020\); for "
            "another epoch, up to train.num_epochs, add it to train.snapshot_epochs",
        ),
        ("[0.9, 0.95]", "[0.9]", "train.adamw_betas: .*at least 2 items"),
        ("[0.9, 0.95]", "[0.9, 1.0]", "train.adamw_betas.1: must be less than 1, not 1.0"),
        ("tries_per_pair: 20", "tries_per_pair: 61", "data: tries_per_pair must be at most 60 with held_out_share 0.1"),
        ("checkpoint: best", "checkpoint: 5", "analysis.checkpoint: must be a valid string, not 5"),
        ('"0:6"', '"0-6"', "patch.position_ranges.0: .*not '0-6'"),
    ],
)
def test_a_bad_key_is_named(tmp_path, old, new, message):
    assert old in TEXT
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(PilotError, match=message) as error:
        load_params(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
