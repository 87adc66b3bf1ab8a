"""Whole forwards with `attn_implementation="pilot"` beside "sdpa", nothing patched: what it costs to have it on.

Logits are compared before anything is timed, and no time fails a test. The two run in turn.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager

import pytest
import torch
from support.sweep_rows import model_of

from pilot.language.attention import NAME, register

SHAPES = [(32, 14), (4, 256)]  # rows, tokens


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@torch.no_grad()
def test_unpatched_forward(benchmark, shape):
    if not benchmark.enabled:
        pytest.skip("takes long; the suite compares logits on tiny models of many families")
    register()
    model = model_of("llama")
    ids = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))

    def forward():
        return model(ids, logits_to_keep=1).logits

    seconds: dict[str, list[float]] = defaultdict(list)

    def time_sdpa():
        with _attention(model, "sdpa"):
            start = time.perf_counter()
            forward()
            seconds["sdpa"].append(time.perf_counter() - start)

    with _attention(model, "sdpa"):
        expected = forward()
    with _attention(model, NAME):
        torch.testing.assert_close(forward(), expected)
        benchmark.group = f"{shape[0]} rows of {shape[1]} tokens"
        benchmark.pedantic(forward, setup=time_sdpa, rounds=25)
    benchmark.extra_info.update(table="language_attention", seconds=seconds)


@contextmanager
def _attention(model, name: str):
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
