"""What the families share: linear maps and norms taken out of their modules, folded in float64, and refusals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pilot.errors import PilotError
from pilot.ops.branched_mlp import Activation
from pilot.sweep.program import Affine, MlpProgram, RmsNorm, Rotary

# Rotary tables that do not depend on the length of the input.
STATIC_ROTARY = ("default", "linear", "llama3", "yarn")


class LoweringError(PilotError):
    """A model that the engine cannot lower, and why; its own forward can still be patched (impl "reference")."""


def refuse(condition: bool, what: str) -> None:
    """Raises LoweringError if the model has an option that a program has no word for."""
    if condition:
        raise LoweringError(f"{what} is not supported by the sweep engine")


def linear(module: nn.Module) -> Affine:
    """An nn.Linear, or a Conv1D of transformers' GPT-2, in float64. Raises LoweringError for any other module."""
    kind, weight, bias = type(module).__name__, getattr(module, "weight", None), getattr(module, "bias", None)
    if kind not in ("Linear", "Conv1D") or not isinstance(weight, Tensor):
        raise LoweringError(f"a {kind} stands where a plain linear map is expected (quantised, or with an adapter?)")
    matrix = weight.double() if kind == "Conv1D" else weight.double().T
    return Affine(matrix, None if bias is None else bias.double())


def joined(*maps: Affine) -> Affine:
    """Maps of one input as a single one, their outputs side by side; all have a bias or none has."""
    biases = [each.bias for each in maps if each.bias is not None]
    return Affine(torch.cat([each.weight for each in maps], dim=1), torch.cat(biases) if biases else None)


def split(whole: Affine, sizes: list[int]) -> list[Affine]:
    """The opposite of `joined`."""
    biases = [None] * len(sizes) if whole.bias is None else whole.bias.split(sizes)
    return [Affine(w, b) for w, b in zip(whole.weight.split(sizes, dim=1), biases, strict=True)]


def after_norm(norm_weight: Tensor, norm_bias: Tensor | None, reader: Affine) -> Affine:
    """What does to x / rms(x) the same as `reader` to (x / rms(x)) * norm_weight + norm_bias."""
    weight, bias = norm_weight.double()[:, None] * reader.weight, reader.bias
    if norm_bias is not None:
        moved = norm_bias.double() @ reader.weight
        bias = moved if bias is None else bias + moved
    return Affine(weight, bias)


def centred(writer: Affine) -> Affine:
    """A map that writes to the stream, without the mean of what it writes: for models with LayerNorm."""
    return Affine(without_mean(writer.weight), None if writer.bias is None else without_mean(writer.bias))


def without_mean(writes: Tensor) -> Tensor:
    """(..., d), each row less its mean, in float64."""
    writes = writes.double()
    return writes - writes.mean(-1, keepdim=True)


def rounded(value: Affine, like: Tensor) -> Affine:
    """In the dtype of `like`, contiguous."""
    weight = value.weight.to(like.dtype).contiguous()
    return Affine(weight, None if value.bias is None else value.bias.to(like.dtype).contiguous())


def separate_projections(attn: Any, norm_weight: Tensor, like: Tensor) -> dict[str, Any]:
    """What the attention modules of Llama and its kin have in common, as arguments of AttentionProgram."""
    q, k, v = (
        rounded(after_norm(norm_weight, None, linear(each)), like) for each in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    return {
        "q": q,
        "k": k,
        "v": v,
        "out": rounded(linear(attn.o_proj), like),
        "n_heads": attn.config.num_attention_heads,
        "n_kv_heads": attn.config.num_key_value_heads,
        "head_dim": attn.head_dim,
        "scale": attn.scaling,
    }


def gated_mlp(
    mlp: Any, norm_weight: Tensor, eps: float, activation: Activation, like: Tensor, norm: RmsNorm | None = None
) -> MlpProgram:
    """The MLP of Llama and its kin, after a norm of that weight; `norm` is one of what it writes."""
    gate_and_up = joined(linear(mlp.gate_proj), linear(mlp.up_proj))
    return MlpProgram(
        read=rounded(after_norm(norm_weight, None, gate_and_up), like),
        write=rounded(linear(mlp.down_proj), like),
        activation=activation,
        eps=eps,
        norm=norm,
    )


def rms_norm(weight: Tensor, eps: float, like: Tensor) -> RmsNorm:
    """A norm that stays where it is, in the dtype of `like`."""
    return RmsNorm(weight.to(like.dtype), eps)


def rotary(module: Any, prefix: str = "") -> Rotary:
    """Of a rotary embedding of transformers; `prefix` is that of its buffers, such as "sliding_attention_"."""
    kind = module.rope_type[prefix.removesuffix("_")] if prefix else module.rope_type
    refuse(kind not in STATIC_ROTARY, f"rotary embedding {kind!r}, which depends on the length of the input,")
    return Rotary(getattr(module, f"{prefix}inv_freq").float(), float(getattr(module, f"{prefix}attention_scaling")))
