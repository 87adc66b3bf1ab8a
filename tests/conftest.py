"""Fixtures, and how tests run: tiny models on one thread, where they are fastest, and properties without a deadline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch
from support.project import write_params

from pilot.models.transformer import ModelConfig, PilotTransformer
from stages import generate, train

ALL_THREADS = torch.get_num_threads()

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(tryfirst=True)  # before fixtures, which train a model
def pytest_runtest_setup(item):
    torch.set_num_threads(ALL_THREADS if "benchmarks" in item.path.parts else 1)


@dataclass(frozen=True)
class TrainedRun:
    """A folder with params.yaml, data/ and runs/ of a tiny model that answers some lines right and some wrong."""

    folder: Path

    @property
    def params(self) -> Path:
        return self.folder / "params.yaml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def checkpoint(self) -> Path:
        return self.runs / "checkpoint_best.pt"


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> TrainedRun:
    run = TrainedRun(tmp_path_factory.mktemp("trained"))
    write_params(run.params)
    assert generate.main(["--config", str(run.params), "--output-dir", str(run.data)]) == 0
    train_arguments = ["--config", str(run.params), "--data-dir", str(run.data), "--output-dir", str(run.runs)]
    assert train.main([*train_arguments, "--device", "cpu"]) == 0
    return run


@pytest.fixture
def small_model() -> PilotTransformer:
    """Random weights, large enough for attention to matter: 3 layers of 2 heads."""
    torch.manual_seed(0)
    model = PilotTransformer(ModelConfig(n_layers=3, n_heads=2, d_model=8, d_mlp=12, context=10))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.fixture
def paper_model() -> PilotTransformer:
    """One layer of two one-dimensional heads, small enough to work out on paper.

    Token 0 is embedded as (1, -1) and token 1 as (-1, 1); LayerNorm leaves both as they are. Queries and keys are
    zero, so attention is the mean over the positions so far; head i's value is coordinate i; W_O is 3 times the
    identity and the MLP is zero. Logit i is coordinate i of the final LayerNorm.
    """
    model = PilotTransformer(ModelConfig(n_layers=1, n_heads=2, d_model=2, d_mlp=1, context=4, vocab_size=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for norm in (model.blocks[0].ln1, model.blocks[0].ln2, model.ln_final):
            norm.weight.fill_(1.0)
        model.tokens.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        model.blocks[0].attn.qkv.weight[4:] = torch.eye(2)
        model.blocks[0].attn.out.weight.copy_(3 * torch.eye(2))
        model.unembed.weight.copy_(torch.eye(2))
    return model.eval()
