"""A model as the sweep engine sees it: its weights, layer by layer, with every input norm folded into what reads it.

All that reads the residual stream does so through a norm. RMSNorm divides by the root mean square and multiplies by a
weight, which moves into the matrix behind it. LayerNorm takes the mean away first, which changes nothing if nothing
ever writes a mean: what writes to the stream is centred then (`fold_ln` and `center_writing_weights` of
TransformerLens). Either way a reader sees x / rms(x), and what a head patch adds to the stream stays linear up to one
scale for each row.

Shapes: B rows, T positions, d d_model, m d_mlp, H heads on H_kv key and value heads, D head_dim, V vocabulary. Matrices
are stored for `x @ weight`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pilot.models.attention import causal_attention
from pilot.ops.branched_mlp import Activation
from pilot.ops.norms import inverse_rms


@dataclass(frozen=True)
class Affine:
    """x (..., i) @ weight (i, j) + bias (j,)."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True)
class RmsNorm:
    """x / rms(x) * weight: of queries and keys, head by head (D,), or of what a layer writes (d,)."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return x * inverse_rms(x, self.eps) * self.weight


class Rotary:
    """Rotary position embedding of a head's first 2 F dimensions, dimension i turned with i + F (Su et al. 2021,
    "RoFormer", arXiv:2104.09864).

    frequencies   (F,) radians a position
    scaling       what cosines and sines are multiplied by
    """

    def __init__(self, frequencies: Tensor, scaling: float):
        self.frequencies, self.scaling = frequencies, scaling
        self._table = frequencies.new_empty(2, 0, 1, len(frequencies))

    def __call__(self, x: Tensor, first: int) -> Tensor:
        """Queries or keys (..., T, H, D) that stand at positions `first` and behind, turned."""
        stop, n = first + x.shape[-3], len(self.frequencies)
        if self._table.shape[1] < stop:
            angle = torch.arange(stop, device=self.frequencies.device)[:, None, None] * self.frequencies
            self._table = torch.stack([angle.cos(), angle.sin()]) * self.scaling
        cos, sin = self._table[:, first:stop].to(x.dtype)
        low, high, rest = x.split([n, n, x.shape[-1] - 2 * n], dim=-1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin, rest], dim=-1)


@dataclass(frozen=True)
class AttentionProgram:
    """Attention of one layer.

    q, k, v    from x / rms(x): (d, H D), (d, H_kv D), (d, H_kv D)
    out        from z to the residual stream: (H D, d)
    scale      what scores are multiplied by
    eps        of the norm before
    rotary     of queries and keys, after q_norm and k_norm
    window     how many positions, its own included, a query sees; None: all before it
    norm       of what attention writes, before it is added to the stream
    """

    q: Affine
    k: Affine
    v: Affine
    out: Affine
    n_heads: int
    n_kv_heads: int
    head_dim: int
    scale: float
    eps: float
    rotary: Rotary | None = None
    q_norm: RmsNorm | None = None
    k_norm: RmsNorm | None = None
    window: int | None = None
    norm: RmsNorm | None = None

    def queries(self, normed: Tensor) -> Tensor:
        """Of normed (..., T, d) at positions 0 to T-1: (..., T, H, D)."""
        return self.turned_queries(self.q(normed).unflatten(-1, (self.n_heads, self.head_dim)), 0)

    def keys(self, normed: Tensor) -> Tensor:
        """Of normed (..., T, d) at positions 0 to T-1: (..., T, H_kv, D)."""
        return self.turned_keys(self.k(normed).unflatten(-1, (self.n_kv_heads, self.head_dim)), 0)

    def values(self, normed: Tensor) -> Tensor:
        """Of normed (..., T, d): (..., T, H_kv, D)."""
        values: Tensor = self.v(normed).unflatten(-1, (self.n_kv_heads, self.head_dim))
        return values

    def turned_queries(self, q: Tensor, first: int) -> Tensor:
        """q (..., T, H, D) at positions `first` and behind, normed and turned."""
        return self._turned(q, self.q_norm, first)

    def turned_keys(self, k: Tensor, first: int) -> Tensor:
        """k (..., T, H_kv, D) at positions `first` and behind, normed and turned."""
        return self._turned(k, self.k_norm, first)

    def _turned(self, x: Tensor, norm: RmsNorm | None, first: int) -> Tensor:
        x = x if norm is None else norm(x)
        return x if self.rotary is None else self.rotary(x, first)


@dataclass(frozen=True)
class MlpProgram:
    """The MLP of one layer.

    read         from x / rms(x) to what the activation takes: (d, m), or (d, 2 m) where it is gated: gate, then up
    write        (m, d)
    eps          of the norm before
    norm         of what the MLP writes, before it is added to the stream
    """

    read: Affine
    write: Affine
    activation: Activation
    eps: float
    norm: RmsNorm | None = None

    def hidden(self, inputs: Tensor) -> Tensor:
        """The activation of what `read` gives: (..., m) or (..., 2 m) -> (..., m)."""
        if self.activation == "gelu":
            return F.gelu(inputs)
        if self.activation == "gelu_tanh":
            return F.gelu(inputs, approximate="tanh")
        gate, up = inputs.chunk(2, dim=-1)
        gate = F.silu(gate) if self.activation == "silu_gated" else F.gelu(gate, approximate="tanh")
        return gate * up


@dataclass(frozen=True)
class LayerProgram:
    """Attention, then the MLP; `parallel`: the MLP reads what enters the layer, not what attention has added to it."""

    attention: AttentionProgram
    mlp: MlpProgram
    parallel: bool = False


@dataclass(frozen=True)
class Program:
    """A decoder. `embed` takes ids (B, T) to the stream (B, T, d); logits are unembed(x / rms(x)), (B, T, V)."""

    embed: Callable[[Tensor], Tensor]
    layers: tuple[LayerProgram, ...]
    unembed: Affine
    eps: float

    @property
    def row_width(self) -> int:
        """Numbers of a row that a branch's MLP works on: hidden units and residual stream."""
        return max(sum(layer.mlp.write.weight.shape) for layer in self.layers)

    @property
    def window(self) -> int | None:
        """The fewest positions that a query of some layer sees; None: all before it, in every layer."""
        return min(
            (layer.attention.window for layer in self.layers if layer.attention.window is not None), default=None
        )

    def __call__(self, ids: Tensor) -> Tensor:
        """The logits (B, T, V) of ids (B, T) int64: what the program means, and what it is checked by."""
        x = self.embed(ids)
        for layer in self.layers:
            x = _run(layer, x)
        return self.unembed(x * inverse_rms(x, self.eps))


def _run(layer: LayerProgram, x: Tensor) -> Tensor:
    attention, mlp = layer.attention, layer.mlp
    normed = x * inverse_rms(x, attention.eps)
    q, k, v = attention.queries(normed), attention.keys(normed), attention.values(normed)
    written = attention.out(causal_attention(q, k, v, scale=attention.scale).flatten(2))
    after = x + (written if attention.norm is None else attention.norm(written))
    read = x if layer.parallel else after
    written = mlp.write(mlp.hidden(mlp.read(read * inverse_rms(read, mlp.eps))))
    return after + (written if mlp.norm is None else mlp.norm(written))
