"""PilotTransformer: LayerNorm before attention and MLP, learned positions, erf GELU."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from pilot.models.transformer import Block, PilotTransformer
from pilot.sweep.lowering.folding import after_norm, centred, linear, rounded, split, without_mean
from pilot.sweep.program import AttentionProgram, LayerProgram, MlpProgram, Program


def lower(model: PilotTransformer) -> Program:
    """See `pilot.sweep.lowering.lower`."""
    like = model.unembed.weight
    tokens, positions = (without_mean(table.weight).to(like.dtype) for table in (model.tokens, model.positions))
    norm = model.ln_final
    return Program(
        embed=lambda ids: tokens[ids] + positions[: ids.shape[-1]],
        layers=tuple(_layer(cast(Block, block), like) for block in model.blocks),
        unembed=rounded(after_norm(norm.weight, norm.bias, linear(model.unembed)), like),
        eps=norm.eps,
    )


def _layer(block: Block, like: Tensor) -> LayerProgram:
    n_heads, head_dim = block.attn.n_heads, block.attn.head_dim
    qkv = after_norm(block.ln1.weight, block.ln1.bias, linear(block.attn.qkv))
    q, k, v = (rounded(each, like) for each in split(qkv, [n_heads * head_dim] * 3))
    attention = AttentionProgram(
        q=q,
        k=k,
        v=v,
        out=rounded(centred(linear(block.attn.out)), like),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        eps=block.ln1.eps,
    )
    mlp = MlpProgram(
        read=rounded(after_norm(block.ln2.weight, block.ln2.bias, linear(block.mlp_in)), like),
        write=rounded(centred(linear(block.mlp_out)), like),
        activation="gelu",
        eps=block.ln2.eps,
    )
    return LayerProgram(attention, mlp)
