"""GPT-2 (transformers): LayerNorm before attention and MLP, learned positions, GELU in its tanh form."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pilot.ops.branched_mlp import Activation
from pilot.sweep.lowering.folding import after_norm, centred, linear, refuse, rounded, split, without_mean
from pilot.sweep.program import AttentionProgram, LayerProgram, MlpProgram, Program

ACTIVATIONS: dict[str, Activation] = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}


def lower(model: Any) -> Program:
    """See `pilot.sweep.lowering.lower`."""
    config, body, like = model.config, model.transformer, model.lm_head.weight
    refuse(config.add_cross_attention, "cross-attention")
    refuse(config.activation_function not in ACTIVATIONS, f"activation {config.activation_function!r}")
    tokens, positions = (without_mean(table.weight).to(like.dtype) for table in (body.wte, body.wpe))
    norm = body.ln_f
    return Program(
        embed=lambda ids: tokens[ids] + positions[: ids.shape[-1]],
        layers=tuple(_layer(block, ACTIVATIONS[config.activation_function], like) for block in body.h),
        unembed=rounded(after_norm(norm.weight, norm.bias, linear(model.lm_head)), like),
        eps=norm.eps,
    )


def _layer(block: Any, activation: Activation, like: Tensor) -> LayerProgram:
    attn = block.attn
    qkv = after_norm(block.ln_1.weight, block.ln_1.bias, linear(attn.c_attn))
    q, k, v = (rounded(each, like) for each in split(qkv, [attn.embed_dim] * 3))
    attention = AttentionProgram(
        q=q,
        k=k,
        v=v,
        out=rounded(centred(linear(attn.c_proj)), like),
        n_heads=attn.num_heads,
        n_kv_heads=attn.num_heads,
        head_dim=attn.head_dim,
        scale=attn.scaling,
        eps=block.ln_1.eps,
    )
    mlp = MlpProgram(
        read=rounded(after_norm(block.ln_2.weight, block.ln_2.bias, linear(block.mlp.c_fc)), like),
        write=rounded(centred(linear(block.mlp.c_proj)), like),
        activation=activation,
        eps=block.ln_2.eps,
    )
    return LayerProgram(attention, mlp)
