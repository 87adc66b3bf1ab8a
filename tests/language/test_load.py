"""Models from disk: every kind comes back as it was saved, and what cannot be loaded is said in one line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.project import ROOT
from support.tiny_gguf import TOKENS, write_gguf
from support.tiny_language import tiny_llama, word_tokenizer
from support.tiny_models import tiny_model
from transformers import (
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    T5Config,
)
from transformers.utils import logging

import pilot
from pilot.errors import PilotError
from pilot.language import load_tokenizer
from pilot.language.load import load_language_model
from pilot.models import save_model

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def refused(load, path) -> str:
    """What is said of `path`: one line that begins with it."""
    with pytest.raises(PilotError) as error:
        load(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


@pytest.fixture
def folder(tmp_path):
    """A Llama and its tokenizer."""
    tiny_llama(23).save_pretrained(tmp_path / "llama")
    word_tokenizer([f" {i}" for i in range(21)]).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox", "llama-tied", "qwen3", "gemma3"])
@torch.no_grad()
def test_a_folder_comes_back(name, tmp_path):
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    loaded = pilot.load_model(str(tmp_path))
    assert type(loaded) is type(model)
    assert not loaded.training
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


@torch.no_grad()
def test_weights_of_fewer_bits_become_float32(tmp_path):
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    assert {weight.dtype for weight in pilot.load_model(tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.no_grad()
def test_a_gguf_file_comes_back_with_its_tokenizer(dtype, tmp_path):
    model = tiny_llama(len(TOKENS))
    write_gguf(tmp_path / "tiny.gguf", model, dtype)
    loaded = pilot.load_model(tmp_path / "tiny.gguf")
    assert not loaded.training
    for parameter in model.parameters():
        parameter.copy_(parameter.to(dtype))
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)
    ids = load_tokenizer(tmp_path / "tiny.gguf")("abc ab", add_special_tokens=False)["input_ids"]
    assert ids == [TOKENS.index("abc"), TOKENS.index("Ġab")]


def test_a_tokenizer_comes_back(folder):
    assert load_tokenizer(folder)(" 3 1 4")["input_ids"] == [5, 3, 6]


def test_loading_prints_nothing_and_leaves_transformers_as_it_was(folder, tmp_path, capfd):
    write_gguf(tmp_path / "tiny.gguf", tiny_llama(len(TOKENS)))
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    capfd.readouterr()
    for path in (folder, tmp_path / "tiny.gguf"):
        pilot.load_model(path)
        load_tokenizer(path)
    (folder / "model.safetensors").write_bytes(b"")
    refused(load_language_model, folder)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_what_is_not_there_is_said(tmp_path):
    for name in ("gpt2", "tiny.gguf"):
        assert refused(pilot.load_model, tmp_path / name).startswith("no such file or folder; nothing is downloaded")
    assert refused(pilot.load_model, tmp_path / "model.pt").startswith("no such checkpoint")
    assert "no config.json" in refused(pilot.load_model, tmp_path)
    assert "no config.json" in refused(load_tokenizer, tmp_path)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert refused(pilot.load_model, folder) == "has no weights: no file *.safetensors"


def test_pickled_weights_are_refused_and_not_read(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert refused(pilot.load_model, folder).startswith("its weights are pickled (pytorch_model.bin), which can run")


def test_code_that_comes_with_a_model_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "other", "auto_map": {"AutoConfig": "other.Config", "AutoModelForCausalLM": "other.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "other.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    assert "custom code" in refused(pilot.load_model, folder)
    assert not (folder / "ran").exists()


def test_models_that_see_later_tokens_are_refused(tmp_path):
    small = {"vocab_size": 23, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    BertForMaskedLM(BertConfig(**small, num_attention_heads=6)).save_pretrained(tmp_path)
    assert refused(pilot.load_model, tmp_path) == "a BertLMHeadModel sees later tokens: it is an encoder, not a decoder"


def test_a_diverged_model_is_not_taken_for_an_encoder(tmp_path):
    model = tiny_llama(23)
    torch.nn.init.constant_(model.lm_head.weight, torch.nan)
    model.save_pretrained(tmp_path)
    assert pilot.load_model(tmp_path).lm_head.weight.isnan().all()


@pytest.mark.parametrize(
    "config", [T5Config(d_model=24, num_layers=1), BartConfig(d_model=24, encoder_layers=1, decoder_layers=1)]
)
def test_encoder_decoders_are_refused(config, folder):
    config.save_pretrained(folder)
    assert refused(pilot.load_model, folder) == f"a {config.model_type} model is not a causal language model"


def test_weights_that_are_missing_are_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert refused(pilot.load_model, folder) == "the weights model.layers.1.mlp.up_proj.weight are missing"
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert refused(pilot.load_model, folder) == "the weights lm_head.weight are missing (and 1 more such)"


def test_weights_of_another_shape_are_refused(folder):
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 29}
    (folder / "config.json").write_text(json.dumps(config))
    message = "the weights lm_head.weight have another shape than the config says (and 1 more such)"
    assert refused(pilot.load_model, folder) == message


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "nonesuch"}'])
def test_damaged_configs_are_refused(content, folder):
    (folder / "config.json").write_text(content)
    assert refused(pilot.load_model, folder).startswith("its model cannot be read (")


def test_truncated_files_are_refused(folder, tmp_path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refused(pilot.load_model, folder).startswith("its model cannot be read (")
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_llama(len(TOKENS)))
    whole = path.read_bytes()
    for length in (4, 20, 300, len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:length])
        assert refused(pilot.load_model, path).startswith("its model cannot be read (")


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n"])
def test_a_file_that_is_only_named_gguf_is_refused(content, tmp_path):
    path = tmp_path / "notes.gguf"
    path.write_bytes(content)
    assert refused(pilot.load_model, path) == "not a GGUF file"
    assert refused(load_tokenizer, path) == "not a GGUF file"


def test_a_missing_tokenizer_is_said(folder, tmp_path):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in refused(load_tokenizer, folder)
    GPT2Config().save_pretrained(tmp_path / "gpt2")  # whose tokenizer transformers makes of nothing
    assert refused(load_tokenizer, tmp_path / "gpt2").startswith("has no tokenizer; save the model's own there")


def run_without_transformers(code: str) -> None:
    program = f"import sys\nsys.modules['transformers'] = None\n{code}"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_checkpoint_needs_no_transformers(small_model, tmp_path):
    save_model(small_model, tmp_path / "model.pt")
    save_model(small_model, tmp_path / "renamed")
    assert pilot.load_model(tmp_path / "renamed").config == small_model.config
    run_without_transformers(f"import pilot\npilot.load_model({str(tmp_path / 'model.pt')!r})")


def test_without_transformers_the_extra_is_named(folder):
    run_without_transformers(
        f"""
import pilot, pilot.language

def check(call):
    try:
        call()
    except pilot.errors.PilotError as error:
        assert str(error) == "language models need an extra: pip install 'pilot-patching[language]'"
    else:
        raise AssertionError

check(lambda: pilot.language.head_patches)
check(lambda: pilot.load_model({str(folder)!r}))
check(lambda: pilot.language.load_tokenizer({str(folder)!r}))
"""
    )
