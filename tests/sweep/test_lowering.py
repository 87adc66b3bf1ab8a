"""A lowered program is the same function of the tokens as the model that it was made from, for every family."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import CONTEXT, MODELS, VOCAB, tiny_model

from pilot.sweep.lowering import LoweringError, lower


def logits_of(model, ids):
    out = model(ids)
    return getattr(out, "logits", out)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_program_gives_the_models_logits(name, seed):
    model = tiny_model(name, seed)
    ids = torch.randint(VOCAB, (4, CONTEXT - seed * 9))
    expected = logits_of(model, ids)
    spread = expected.std()
    assert spread > 0.05, "a model that says the same of everything would prove nothing"
    assert (lower(model)(ids) - expected).abs().max() < 1e-4 * spread


@torch.no_grad()
def test_float64_models_are_lowered_in_float64():
    model = tiny_model("llama").double()
    ids = torch.randint(VOCAB, (2, 9))
    program = lower(model)
    assert program.unembed.weight.dtype == torch.float64
    assert (program(ids) - logits_of(model, ids)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.half(), r"its weights are float16, not float32 or float64: call model.float\(\)"),
        (
            lambda model: setattr(model.model.layers[0].mlp, "down_proj", torch.nn.Identity()),
            "a Identity stands where a plain",
        ),
        (
            lambda model: setattr(model.config, "hidden_act", "relu"),
            "activation 'relu' is not supported by the sweep engine",
        ),
        (
            lambda model: setattr(model.model.rotary_emb, "rope_type", "dynamic"),
            "rotary embedding 'dynamic', which depends on",
        ),
    ],
)
def test_what_a_program_has_no_word_for_is_refused(change, message):
    model = tiny_model("llama")
    change(model)
    with pytest.raises(LoweringError, match=message):
        lower(model)


def test_softcaps_are_refused():
    model = tiny_model("gemma3")
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(LoweringError, match="a softcap of logits is not supported"):
        lower(model)


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(LoweringError, match="cannot lower a Linear"):
        lower(torch.nn.Linear(2, 2))
