"""What a model is to the sweep engine: its weights, layer by layer, with every LayerNorm folded into its neighbours.

All that reads the residual stream does so through a LayerNorm, which takes its mean away, so nothing changes if nothing
ever writes a mean. LN(x) is then x / rms(x), the norm's weight and bias moved into the matrix that reads it (`fold_ln`
and `center_writing_weights` of TransformerLens). What a patch adds is now linear up to one scale for each row, in the
residual stream x and in the MLP's input too. Both stand side by side in a `state` of d + m columns: x, then x @ mlp_in.

Shapes: d d_model, m d_mlp, V vocabulary, H heads, D head_dim. Matrices are stored for `x @ matrix`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LayerProgram:
    """One layer: attention, then the MLP.

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
class Program:
    """x starts as tokens[ids] + positions: (V, d), (context, d). Logits are (x / rms(x)) @ unembed + unembed_bias."""

    tokens: Tensor
    positions: Tensor
    layers: list[LayerProgram]
    unembed: Tensor
    unembed_bias: Tensor
    eps: float

    @property
    def d_model(self) -> int:
        return self.tokens.shape[1]

    @property
    def d_mlp(self) -> int:
        return self.layers[0].mlp_in.shape[1]
