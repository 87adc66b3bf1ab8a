"""Gemma 3 (transformers, text): RMSNorm before and after attention and MLP, norms of queries and keys, two rotary
embeddings, windows in most layers, gated GELU in its tanh form.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pilot.sweep.lowering.folding import (
    after_norm,
    gated_mlp,
    linear,
    refuse,
    rms_norm,
    rotary,
    rounded,
    separate_projections,
)
from pilot.sweep.program import AttentionProgram, LayerProgram, Program, RmsNorm, Rotary


def lower(model: Any) -> Program:
    """See `pilot.sweep.lowering.lower`."""
    config, body, head = model.config, model.model, model.lm_head
    refuse(config.hidden_activation != "gelu_pytorch_tanh", f"activation {config.hidden_activation!r}")
    refuse(config.attn_logit_softcapping is not None, "a softcap of attention scores")
    refuse(config.final_logit_softcapping is not None, "a softcap of logits")
    refuse(bool(config.use_bidirectional_attention), "attention to later positions")
    like = head.weight
    turns = {kind: rotary(body.rotary_emb, f"{kind}_") for kind in body.rotary_emb.rope_type}
    embedding = body.embed_tokens
    return Program(
        embed=lambda ids: embedding.weight[ids] * embedding.embed_scale.to(like.dtype),
        layers=tuple(_layer(layer, turns[layer.self_attn.layer_type], like) for layer in body.layers),
        unembed=rounded(after_norm(_weight(body.norm), None, linear(head)), like),
        eps=body.norm.eps,
    )


def _layer(layer: Any, turn: Rotary, like: Tensor) -> LayerProgram:
    attn, mlp, before, middle = layer.self_attn, layer.mlp, layer.input_layernorm, layer.pre_feedforward_layernorm
    attention = AttentionProgram(
        **separate_projections(attn, _weight(before), like),
        eps=before.eps,
        rotary=turn,
        q_norm=_norm(attn.q_norm, like),
        k_norm=_norm(attn.k_norm, like),
        window=attn.sliding_window,
        norm=_norm(layer.post_attention_layernorm, like),
    )
    after = _norm(layer.post_feedforward_layernorm, like)
    return LayerProgram(attention, gated_mlp(mlp, _weight(middle), middle.eps, "gelu_tanh_gated", like, norm=after))


def _weight(norm: Any) -> Tensor:
    """Gemma stores the weight of a norm less one."""
    return 1 + norm.weight.double()  # type: ignore[no-any-return]


def _norm(norm: Any, like: Tensor) -> RmsNorm:
    return rms_norm(_weight(norm), norm.eps, like)
