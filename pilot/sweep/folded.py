"""A model's weights with every LayerNorm folded into its neighbours, for the sweep engine.

All that reads the residual stream does so through a LayerNorm, which takes its mean away, so nothing changes if nothing
ever writes a mean. LN(x) is then x / rms(x), the norm's weight and bias moved into the matrix that reads it (`fold_ln`
and `center_writing_weights` of TransformerLens). What a patch adds is now linear up to one scale for each row, in the
residual stream x and in the MLP's input too. Both stand side by side in a `state` of d + m columns: x, then x @ mlp_in.

Shapes: d d_model, m d_mlp, V vocabulary, H heads, D head_dim. Matrices are stored for `x @ matrix`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pilot.models.transformer import Block, PilotTransformer


@dataclass(frozen=True)
class FoldedBlock:
    """One block.

    q, q_bias             queries are (x / rms(x)) @ q + q_bias: (d, d), (d,)
    kv, kv_bias           keys, and behind them values: (d, 2 d), (2 d,)
    to_keys               takes a head's query to what all x / rms(x) are to be multiplied by: (H, D, d)
    to_values             takes a mean of x / rms(x) to that of a head's values, but for values_bias: (H, d, D), (H, D)
    out, out_bias         attention writes z @ out + out_bias: (d, d), (d,)
    mlp_in, mlp_in_bias   hidden units are gelu((x @ mlp_in) / rms(x) + mlp_in_bias): (d, m), (m,)
    head_state            what a head's z adds to the state: (H, D, d + m)
    mlp_out, mlp_out_bias the MLP writes hidden @ mlp_out + mlp_out_bias: (m, d), (d,)
    eps_attn, eps_mlp     of the norms before attention and MLP
    """

    q: Tensor
    q_bias: Tensor
    kv: Tensor
    kv_bias: Tensor
    to_keys: Tensor
    to_values: Tensor
    values_bias: Tensor
    out: Tensor
    out_bias: Tensor
    mlp_in: Tensor
    mlp_in_bias: Tensor
    head_state: Tensor
    mlp_out: Tensor
    mlp_out_bias: Tensor
    eps_attn: float
    eps_mlp: float

    @property
    def n_heads(self) -> int:
        return len(self.head_state)

    @property
    def head_dim(self) -> int:
        return self.head_state.shape[1]


@dataclass(frozen=True)
class FoldedModel:
    """x starts as tokens[ids] + positions: (V, d), (context, d). Logits are (x / rms(x)) @ unembed + unembed_bias."""

    tokens: Tensor
    positions: Tensor
    blocks: list[FoldedBlock]
    unembed: Tensor
    unembed_bias: Tensor
    eps: float

    @property
    def d_model(self) -> int:
        return self.tokens.shape[1]

    @property
    def d_mlp(self) -> int:
        return self.blocks[0].mlp_in.shape[1]


@torch.no_grad()
def fold(model: PilotTransformer) -> FoldedModel:
    """The same function of the tokens; folded in float64, then rounded to the model's own precision."""
    dtype = model.unembed.weight.dtype
    unembed, unembed_bias = _reader(model.unembed, model.ln_final)
    return FoldedModel(
        tokens=_centred(model.tokens.weight).to(dtype),
        positions=_centred(model.positions.weight).to(dtype),
        blocks=[_fold_block(cast(Block, block), dtype) for block in model.blocks],
        unembed=unembed.to(dtype),
        unembed_bias=unembed_bias.to(dtype),
        eps=model.ln_final.eps,
    )


def _fold_block(block: Block, dtype: torch.dtype) -> FoldedBlock:
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
    return FoldedBlock(**rounded, eps_attn=block.ln1.eps, eps_mlp=block.ln2.eps)


def _reader(linear: nn.Linear, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """The matrix and bias that do to x / rms(x) what `linear` does to norm(x)."""
    matrix = linear.weight.double().T
    bias = norm.bias.double() @ matrix
    return norm.weight.double()[:, None] * matrix, bias if linear.bias is None else bias + linear.bias.double()


def _centred(writes: Tensor) -> Tensor:
    """What is written to the residual stream, (..., d), without its mean."""
    writes = writes.double()
    return writes - writes.mean(-1, keepdim=True)
