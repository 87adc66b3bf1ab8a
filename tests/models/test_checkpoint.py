import pickle

import pytest
import torch

from pilot.errors import PilotError
from pilot.models.checkpoint import load_model, read_checkpoint, save_model


def test_a_model_comes_back(small_model, tmp_path):
    path = tmp_path / "deep" / "model.pt"
    save_model(small_model.train(), path, epoch=3, metrics={"val": {"flat": 0.5}})
    loaded = load_model(path)
    assert not loaded.training
    assert loaded.config == small_model.config
    ids = torch.randint(0, 17, (2, 5))
    assert torch.equal(loaded(ids), small_model(ids))
    content = read_checkpoint(path)
    assert (content["epoch"], content["metrics"]) == (3, {"val": {"flat": 0.5}})
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_the_same_weights_give_the_same_bytes(small_model, tmp_path):
    save_model(small_model, tmp_path / "a.pt", epoch=1)
    save_model(small_model, tmp_path / "other_name.pt", epoch=1)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "other_name.pt").read_bytes()


class _Malicious:
    def __reduce__(self):
        return print, ("executed",)


def test_files_that_are_no_checkpoints_are_refused_and_not_executed(small_model, tmp_path, capsys):
    path = tmp_path / "model.pt"
    with pytest.raises(PilotError, match=r"model.pt: no such checkpoint; train one with: dvc repro train"):
        load_model(path)
    save_model(small_model, path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:-30], pickle.dumps(_Malicious())):
        path.write_bytes(content)
        with pytest.raises(PilotError, match=r"model.pt: not a readable archive") as error:
            load_model(path)
        assert "\n" not in str(error.value)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": 1}, "lacks config and model"),
        ([1, 2], "lacks config and model"),
        ({"config": {"n_layers": 1}, "model": {}}, "do not make a model"),
        ({"config": {"layers": 1}, "model": {}}, "do not make a model"),
        ({"config": {}, "model": 5}, "do not make a model"),
        ({"config": {"n_layers": "many"}, "model": {}}, "n_layers must be a positive integer"),
    ],
)
def test_foreign_checkpoints_are_refused(tmp_path, content, message):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(PilotError, match=message) as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_made_is_named(small_model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PilotError, match=r"model.pt: cannot be written"):
        save_model(small_model, tmp_path / "file" / "model.pt")
