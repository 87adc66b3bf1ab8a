"""Whole forwards with `attn_implementation="pilot"` beside "sdpa", nothing patched: what it costs to have it on.

Logits are compared before anything is timed, and no time fails a test. The two run in turn.
"""

from __future__ import annotations

import time

import pytest
import torch
from support.sweep_rows import model_of

from pilot.language.attention import NAME, register

SHAPES = [(32, 14), (4, 256)]  # rows, tokens


@pytest.fixture
def model():
    register()
    model = model_of("llama")
    before = model.config._attn_implementation
    yield model
    model.set_attn_implementation(before)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@torch.no_grad()
def test_unpatched_forward(benchmark, model, shape):
    if not benchmark.enabled:
        pytest.skip("takes long; the suite compares logits on tiny models of many families")
    ids = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    of_sdpa: list[float] = []

    def forward():
        return model(ids, logits_to_keep=1).logits

    def time_sdpa():
        model.set_attn_implementation("sdpa")
        start = time.perf_counter()
        forward()
        of_sdpa.append(time.perf_counter() - start)
        model.set_attn_implementation(NAME)

    model.set_attn_implementation("sdpa")
    expected = forward()
    model.set_attn_implementation(NAME)
    torch.testing.assert_close(forward(), expected)
    benchmark.group = f"{shape[0]} rows of {shape[1]} tokens"
    benchmark.pedantic(forward, setup=time_sdpa, rounds=25)
    benchmark.extra_info.update(table="language_attention", seconds={"sdpa": of_sdpa})
