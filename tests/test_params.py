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


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace("adamw_lr: 0.003", "adamw_lr: 3e-3"))
    assert load_params(path).train.adamw_lr == 0.003


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_epochs: ", "num_epoch: ", "train.num_epoch is not a known key; did you mean num_epochs"),
        ("data:", "date:", "date is not a known key; did you mean data"),
        ("  top_k: 3\n", "", "select.top_k is missing"),
        ("top_k: 3", "top_k: three", "select.top_k: must be a valid integer, not 'three'"),
        ("top_k: 3", "top_k: true", "select.top_k: must be a valid integer, not True"),
        ("top_k: 3", "top_k: 0", "select.top_k: must be greater than or equal to 1, not 0"),
        ("top_k: 3", "top_k: 3\n  top_k: 4", 'params.yaml:.*duplicate key "top_k"'),
        ("top_k: 3", "top_k: [3", r"params.yaml:\d+: not YAML"),
        ("pairs_per_edit: 1000", "pairs_per_edit: 1", "data.pairs_per_edit: must be greater than or equal to 2, not 1"),
        ("adamw_lr: 0.003", "adamw_lr: .nan", "train.adamw_lr: must be a finite number"),
        ("ablation: mean", "ablation: median", "select.ablation: must be 'zero', 'mean' or 'resample', not 'median'"),
        ('"+-*"', '"+/"', r"data.operators: must hold some of \+ - \*, each once"),
        ("min_operands: 2", "min_operands: 6", "min_operands must not be larger than max_operands"),
        (
            "checkpoint: best",
            "checkpoint: epoch_004",
            r"analysis: checkpoint 'epoch_004' is none that training keeps \(best, last, epoch_001, .*epoch_020\); for "
            "another epoch, up to train.num_epochs, add it to train.snapshot_epochs",
        ),
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


@pytest.mark.parametrize("content", [b"", b"5", b"\xff\xfe", b"- a"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(PilotError, match=r"params\.yaml"):
        load_params(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PilotError, match=r"nowhere.yaml: no such file"):
        load_params(tmp_path / "nowhere.yaml")
