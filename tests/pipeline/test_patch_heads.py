"""The command patch-heads: a page from a folder and a file of pairs, and one line for what cannot be analysed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from support.project import ROOT
from support.tiny_gguf import TOKENS, write_gguf
from support.tiny_language import save_language_model, tiny_llama, tiny_pairs, word_tokenizer
from transformers import BertConfig, BertForMaskedLM, MambaConfig, MambaForCausalLM

from pilot.language.pairs import write_text_pairs
from stages.language import patch_heads

OPTIONS = ["--players", "3", "--set-pairs", "3", "--resamples", "400", "--random-sets", "2", "--examples", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_language_model(path)
    return path


@pytest.fixture
def workspace(trained, tmp_path, monkeypatch):
    """A folder with a model, pairs, and a tokenizer beside no weights."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "tiny")
    write_text_pairs("pairs.jsonl", tiny_pairs())
    return tmp_path


def run(*options: str) -> int:
    return patch_heads.main(["--output-dir", "out", "--device", "cpu", *OPTIONS, *options])


def test_a_folder_and_pairs_make_a_page(workspace, capsys):
    assert run("--model", "tiny", "--pairs", "pairs.jsonl") == 0
    assert "right: 100.0% of the clean prompts" in capsys.readouterr().out
    written = {path.name for path in (workspace / "out").iterdir()}
    tables = {"head_positions.csv", "interactions.csv", "best_sets.csv"}
    numbers = {"pairs.json", "selection.json", "counterfactual.json"}
    assert written == {*tables, *numbers, "pairs.jsonl", "examples.json", "report.html", "figures"}
    players = json.loads((workspace / "out/selection.json").read_text())["player"]
    page = (workspace / "out/report.html").read_text()
    assert "tiny" in page
    assert all(player in page for player in players)


def refused(capsys, message: str, *options: str) -> None:
    capsys.readouterr()  # what transformers says when it saves
    assert run(*options) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(message, line), line


def test_models_that_cannot_be_analysed_are_refused_in_one_line(workspace, capsys):
    def model(message: str, path: str) -> None:
        refused(capsys, message, "--model", path, "--pairs", "pairs.jsonl")

    tokenizer = word_tokenizer(["a"])
    small = {"vocab_size": 23, "hidden_size": 24, "num_hidden_layers": 2}
    for name, other in {
        "encoder": BertForMaskedLM(BertConfig(**small, intermediate_size=40, num_attention_heads=6)),
        "mamba": MambaForCausalLM(MambaConfig(**small, state_size=4)),
        "untokenised": tiny_llama(23),
    }.items():
        other.save_pretrained(name)
        if name != "untokenised":
            tokenizer.save_pretrained(name)
    tokenizer.save_pretrained("empty")
    model("nowhere: no such file or folder; nothing is downloaded", "nowhere")
    model("empty: not the folder of a Hugging Face model", "empty")
    model("encoder: a BertLMHeadModel sees later tokens", "encoder")
    model("MambaConfig does not say how many layers and heads", "mamba")
    model("untokenised: .*tokenizer", "untokenised")
    shutil.copytree("tiny", "weightless")
    (workspace / "weightless/model.safetensors").unlink()
    model("weightless: has no weights", "weightless")
    (workspace / "weightless/pytorch_model.bin").write_bytes(b"")
    model("weightless: its weights are pickled", "weightless")
    write_gguf(workspace / "tiny.gguf", tiny_llama(len(TOKENS)))
    (workspace / "cut.gguf").write_bytes((workspace / "tiny.gguf").read_bytes()[:-100])
    model("cut.gguf: its .* cannot be read", "cut.gguf")


def test_pairs_that_cannot_be_analysed_are_refused_in_one_line(workspace, capsys):
    def pairs(message: str, *options: str) -> None:
        refused(capsys, message, "--model", "tiny", *options)

    (workspace / "bad.jsonl").write_text('{"clean": "a"}\n')
    pairs("bad.jsonl:1: want an object with exactly the keys", "--pairs", "bad.jsonl")
    pairs("none.jsonl: no such file", "--pairs", "none.jsonl")
    pairs("ioi: 3 of the .* names of the select split are one token", "--task", "ioi")
    right = ["--pairs", "pairs.jsonl"]
    pairs("0 of the 6 .* logit difference gap of 500", *right, "--min-logit-gap", "500")
    pairs("9 players are too many: the model has 8 heads", *right, "--players", "9")
    pairs("players: must be less than or equal to 20, not 21", *right, "--players", "21")
    pairs("miss_rate: must be less than 1, not 1.5", *right, "--miss-rate", "1.5")
    pairs("no head recovers more than 0.99", *right, "--method", "attribution+verify", "--min-recovery", "0.99")
    pairs("20 resamples are too few|resamples: must be", *right, "--resamples", "20")
    assert not (workspace / "out/report.html").exists()


def test_help_says_every_default(capsys):
    with pytest.raises(SystemExit):
        patch_heads.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    required = {"help", "model", "pairs", "task", "output-dir"}
    for option in set(re.findall(r"--([a-z-]+) [A-Z{]", shown)) - required:
        assert re.search(rf"--{option} .*?\(default: ", shown), option


@pytest.mark.parametrize("method", ["exact", "attribution+verify"])
def test_processes_share_the_work_and_write_the_same_bytes(workspace, method):
    command = [sys.executable, "-m", "stages.language.patch_heads", "--model", "tiny", "--pairs", "pairs.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    written = []
    for processes in ("1", "2"):
        options = ["--output-dir", processes, "--device", "cpu", "--method", method, *OPTIONS]
        done = subprocess.run(
            [*command, *options], env=environment | {"PILOT_PROCESSES": processes}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        files = [path for path in (workspace / processes).iterdir() if path.suffix in (".json", ".csv", ".jsonl")]
        written.append({path.name: path.read_bytes() for path in files})
    assert len(written[0]) == 8
    assert written[0] == written[1]
    assert json.loads(written[0]["selection.json"])["method"] == method
    assert ("They were searched for" in (workspace / "2/report.html").read_text()) == (method != "exact")
