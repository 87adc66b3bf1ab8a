"""GPT-NeoX, Pythia (transformers): LayerNorm, partial rotary embedding, attention and MLP side by side or in turn."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pilot.sweep.lowering.folding import after_norm, centred, linear, refuse, rotary, rounded, without_mean
from pilot.sweep.lowering.gpt2 import ACTIVATIONS
from pilot.sweep.program import Affine, AttentionProgram, LayerProgram, MlpProgram, Program, Rotary


def lower(model: Any) -> Program:
    """See `pilot.sweep.lowering.lower`."""
    config, body, head = model.config, model.gpt_neox, model.lm_head
    refuse(config.hidden_act not in ACTIVATIONS, f"activation {config.hidden_act!r}")
    like, norm = head.weight, body.final_layer_norm
    tokens = without_mean(body.embed_in.weight).to(like.dtype)
    turn = rotary(body.rotary_emb)
    return Program(
        embed=lambda ids: tokens[ids],
        layers=tuple(_layer(block, turn, like) for block in body.layers),
        unembed=rounded(after_norm(norm.weight, norm.bias, linear(head)), like),
        eps=norm.eps,
    )


def _layer(block: Any, turn: Rotary, like: Tensor) -> LayerProgram:
    attn, before, middle = block.attention, block.input_layernorm, block.post_attention_layernorm
    n_heads, head_dim = attn.config.num_attention_heads, attn.head_size
    qkv = after_norm(before.weight, before.bias, linear(attn.query_key_value))
    q, k, v = (rounded(each, like) for each in _by_head(qkv, n_heads, head_dim))
    attention = AttentionProgram(
        q=q,
        k=k,
        v=v,
        out=rounded(centred(linear(attn.dense)), like),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=head_dim,
        scale=attn.scaling,
        eps=before.eps,
        rotary=turn,
    )
    mlp = MlpProgram(
        read=rounded(after_norm(middle.weight, middle.bias, linear(block.mlp.dense_h_to_4h)), like),
        write=rounded(centred(linear(block.mlp.dense_4h_to_h)), like),
        activation=ACTIVATIONS[attn.config.hidden_act],
        eps=middle.eps,
    )
    return LayerProgram(attention, mlp, parallel=block.use_parallel_residual)


def _by_head(qkv: Affine, n_heads: int, head_dim: int) -> list[Affine]:
    """Queries, keys and values of one map that gives each head's three side by side."""
    weights = qkv.weight.unflatten(1, (n_heads, 3, head_dim)).unbind(2)
    if qkv.bias is None:
        return [Affine(weight.flatten(1)) for weight in weights]
    biases = qkv.bias.unflatten(0, (n_heads, 3, head_dim)).unbind(1)
    return [Affine(weight.flatten(1), bias.flatten()) for weight, bias in zip(weights, biases, strict=True)]
