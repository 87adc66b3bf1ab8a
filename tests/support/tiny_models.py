"""Tiny random models of every family that the sweep engine lowers, made without a download."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pilot.models.transformer import ModelConfig, PilotTransformer

VOCAB, CONTEXT = 23, 32


def _pilot() -> nn.Module:
    return PilotTransformer(ModelConfig(n_layers=3, n_heads=2, d_model=16, d_mlp=24, context=CONTEXT, vocab_size=VOCAB))


def _transformers(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(vocab_size=VOCAB, pad_token_id=0, **options)
        model = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}.get(name, f"{name}ForCausalLM")
        return getattr(transformers, model)(config)

    return make


SMALL = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 6}
GROUPED = SMALL | {"num_key_value_heads": 2, "max_position_embeddings": CONTEXT}
GPT2 = {"n_embd": 24, "n_layer": 3, "n_head": 3, "n_positions": CONTEXT}
NEOX = SMALL | {"max_position_embeddings": CONTEXT}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "pilot": _pilot,
    "gpt2": _transformers("GPT2", **GPT2),
    "gpt2-options": _transformers(
        "GPT2", **GPT2, activation_function="gelu", n_inner=40, scale_attn_by_inverse_layer_idx=True
    ),
    "gpt-neox": _transformers(
        "GPTNeoX", **NEOX, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    ),
    "gpt-neox-sequential": _transformers("GPTNeoX", **NEOX, use_parallel_residual=False, attention_bias=False),
    "llama": _transformers("Llama", **GROUPED),
    "llama-biases": _transformers("Llama", **GROUPED, attention_bias=True, mlp_bias=True, head_dim=8),
    "llama-tied": _transformers("Llama", **GROUPED, tie_word_embeddings=True),
    "mistral": _transformers("Mistral", **GROUPED, sliding_window=None),
    "qwen2": _transformers("Qwen2", **GROUPED),
    "qwen3": _transformers("Qwen3", **GROUPED, head_dim=8),
    "gemma3": _transformers(
        "Gemma3Text",
        **GROUPED,
        head_dim=8,
        sliding_window=CONTEXT,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
}


# Models that not every test can take.
OTHERS = {
    "gemma3-window": _transformers(
        "Gemma3Text",
        **GROUPED,
        head_dim=8,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    ),
}


def tiny_model(name: str, seed: int = 0) -> nn.Module:
    """In eval mode, with weights, biases and norms large enough that every part of the model matters."""
    torch.manual_seed(seed)
    model = (MODELS | OTHERS)[name]().eval()
    for key, parameter in model.named_parameters():
        if "norm" in key or "ln_" in key or ".ln" in key:
            nn.init.normal_(parameter, mean=0.3, std=0.5)
        else:
            nn.init.normal_(parameter, std=0.4)
    return model
