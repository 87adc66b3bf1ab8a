"""Llama, Mistral, Qwen 2 and Qwen 3 (transformers): RMSNorm, rotary embedding, grouped-query heads, gated SiLU."""

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
from pilot.sweep.program import AttentionProgram, LayerProgram, Program, Rotary


def lower(model: Any) -> Program:
    """See `pilot.sweep.lowering.lower`."""
    config, body, head = model.config, model.model, model.lm_head
    refuse(config.hidden_act != "silu", f"activation {config.hidden_act!r}")
    like, norm, turn = head.weight, body.norm, rotary(body.rotary_emb)
    return Program(
        embed=lambda ids: body.embed_tokens.weight[ids],
        layers=tuple(_layer(layer, turn, like) for layer in body.layers),
        unembed=rounded(after_norm(norm.weight, None, linear(head)), like),
        eps=norm.variance_epsilon,
    )


def _layer(layer: Any, turn: Rotary, like: Tensor) -> LayerProgram:
    attn, mlp, before, middle = layer.self_attn, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm
    norms: dict[str, Any] = {
        name: rms_norm(getattr(attn, name).weight, getattr(attn, name).variance_epsilon, like)
        for name in ("q_norm", "k_norm")
        if hasattr(attn, name)
    }
    attention = AttentionProgram(
        **separate_projections(attn, before.weight, like),
        eps=before.variance_epsilon,
        rotary=turn,
        window=_window(attn),
        **norms,
    )
    return LayerProgram(attention, gated_mlp(mlp, middle.weight, middle.variance_epsilon, "silu_gated", like))


def _window(attn: Any) -> int | None:
    """Qwen's attention knows its own; Mistral's takes that of the config."""
    if hasattr(attn, "sliding_window"):
        return attn.sliding_window  # type: ignore[no-any-return]
    return getattr(attn.config, "sliding_window", None) if attn.config.model_type == "mistral" else None
