"""Lowers a model to a program (pilot.sweep.program)."""

from __future__ import annotations

from functools import singledispatch
from typing import cast

import torch
from torch import Tensor, nn

from pilot.errors import PilotError
from pilot.models.transformer import Block, PilotTransformer
from pilot.sweep.program import LayerProgram, Program


@singledispatch
def lower(model: nn.Module) -> Program:
    """The model as a program: the same function of the tokens, in the model's own precision.

    Raises PilotError for a type of model that no lowering knows.
    """
    raise PilotError(f"the sweep engine cannot lower a {type(model).__name__}: use impl='reference'")


def can_lower(model: nn.Module) -> bool:
    """Whether a lowering knows models of this type."""
    return lower.dispatch(type(model)) is not lower.dispatch(object)


@lower.register
@torch.no_grad()
def _lower_pilot(model: PilotTransformer) -> Program:
    """Folded in float64, then rounded."""
    dtype = model.unembed.weight.dtype
    unembed, unembed_bias = _reader(model.unembed, model.ln_final)
    return Program(
        tokens=_centred(model.tokens.weight).to(dtype),
        positions=_centred(model.positions.weight).to(dtype),
        layers=[_lower_block(cast(Block, block), dtype) for block in model.blocks],
        unembed=unembed.to(dtype),
        unembed_bias=unembed_bias.to(dtype),
        eps=model.ln_final.eps,
    )


def _lower_block(block: Block, dtype: torch.dtype) -> LayerProgram:
    n_heads, head_dim = block.attn.n_heads, block.attn.head_dim
    d_model = n_heads * head_dim
    qkv, qkv_bias = _reader(block.attn.qkv, block.ln1)
    mlp_in, mlp_in_bias = _reader(block.mlp_in, block.ln2)
    out = _centred(block.attn.out.weight.T)
    keys, values = qkv[:, d_model:].unflatten(1, (2, n_heads, head_dim)).unbind(1)  # (d, H, D)
    matrices = {
        "q": qkv[:, :d_model],
        "q_bias": qkv_bias[:d_model],
        "kv": qkv[:, d_model:],
        "kv_bias": qkv_bias[d_model:],
        "to_keys": keys.permute(1, 2, 0),
        "to_values": values.transpose(0, 1),
        "values_bias": qkv_bias[2 * d_model :].unflatten(0, (n_heads, head_dim)),
        "out": out,
        "out_bias": _centred(block.attn.out.bias),
        "mlp_in": mlp_in,
        "mlp_in_bias": mlp_in_bias,
        "head_state": torch.cat([out, out @ mlp_in], dim=1).unflatten(0, (n_heads, head_dim)),
        "mlp_out": _centred(block.mlp_out.weight.T),
        "mlp_out_bias": _centred(block.mlp_out.bias),
    }
    rounded = {name: matrix.to(dtype).contiguous() for name, matrix in matrices.items()}
    return LayerProgram(**rounded, eps_attn=block.ln1.eps, eps_mlp=block.ln2.eps)


def _reader(linear: nn.Linear, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """The matrix and bias that do to x / rms(x) what `linear` does to norm(x)."""
    matrix = linear.weight.double().T
    bias = norm.bias.double() @ matrix
    return norm.weight.double()[:, None] * matrix, bias if linear.bias is None else bias + linear.bias.double()


def _centred(writes: Tensor) -> Tensor:
    """What is written to the residual stream, (..., d), without its mean."""
    writes = writes.double()
    return writes - writes.mean(-1, keepdim=True)
