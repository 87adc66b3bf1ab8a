"""Doing it: reading and replacing head outputs of a model, one whole forward at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from pilot.interventions import HeadPatch, Intervention
from pilot.models.attention import attention_pattern
from pilot.models.transformer import PilotTransformer


@contextmanager
def patched(model: PilotTransformer, intervention: Intervention, source: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within the block every forward of `model` has the intervention's heads replaced; afterwards none has.

    source   for each layer the z to take replacements from, (batch or 1, seq, n_heads, head_dim)
    """
    by_layer: dict[int, list[HeadPatch]] = {}
    for patch in intervention:
        by_layer.setdefault(patch.layer, []).append(patch)
    try:
        for layer, patches in by_layer.items():
            attn = model.blocks[layer].attn
            attn.patch_head_index = tuple(patch.head for patch in patches)
            attn.patch_head_output = source[layer][:, :, attn.patch_head_index]
            attn.patch_positions = tuple(slice(patch.start, patch.stop) for patch in patches)
        yield
    finally:
        for layer in by_layer:
            attn = model.blocks[layer].attn
            attn.patch_head_index = attn.patch_head_output = attn.patch_positions = None


@contextmanager
def attention_settings(model: PilotTransformer, **settings) -> Iterator[None]:
    """Within the block all attention modules have these attributes, such as `impl`; afterwards those of before."""
    before = [{name: getattr(block.attn, name) for name in settings} for block in model.blocks]
    try:
        for block in model.blocks:
            vars(block.attn).update(settings)
        yield
    finally:
        for block, values in zip(model.blocks, before, strict=True):
            vars(block.attn).update(values)


def head_outputs(model: PilotTransformer, input_ids: torch.Tensor) -> list[torch.Tensor]:
    """z of every layer of an unpatched run: n_layers tensors (batch, seq, n_heads, head_dim)."""
    with attention_settings(model, record_head_output=True):
        model(input_ids)
    return [block.attn.last_head_output for block in model.blocks]


@torch.no_grad()
def attention_patterns(model: PilotTransformer, input_ids: torch.Tensor) -> list[torch.Tensor]:
    """Where every head of an unpatched run attends: n_layers tensors (batch, n_heads, seq, seq), rows add up to 1."""
    x = model.tokens(input_ids) + model.positions.weight[: input_ids.shape[1]]
    patterns = []
    for block in model.blocks:
        q, k, _ = block.attn.queries_keys_values(block.ln1(x))
        patterns.append(attention_pattern(q, k))
        x = block(x)
    return patterns
