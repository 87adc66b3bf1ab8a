"""What the engine computes with: chosen once for a sweep engine, not at every call of an operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pilot.ops import (
    branched_attention,
    branched_mlp,
    causal_attention,
    eager_branched_attention,
    eager_branched_mlp,
    eager_causal_attention,
    eager_product,
    product,
)
from pilot.sweep.buffers import Buffer
from pilot.sweep.program import Affine

EAGER_ROWS = 512  # that PyTorch computes at a time: what each of its steps leaves is read by the next, from cache


@dataclass(frozen=True)
class Operators:
    """Operators of pilot.ops, all in one implementation."""

    product: Callable[..., None]
    branched_mlp: Callable[..., None]
    branched_attention: Callable[..., None]
    causal_attention: Callable[..., None]

    @classmethod
    def of(cls, impl: str) -> Operators:
        """Those of "fused" or "eager"."""
        if impl == "fused":
            return cls(product, branched_mlp, branched_attention, causal_attention)
        return cls(eager_product, _eager_branched_mlp, eager_branched_attention, eager_causal_attention)

    def apply(self, affine: Affine, x: Tensor, buffer: Buffer) -> Tensor:
        """affine(x), x (..., i) -> (..., j), in a buffer."""
        out = buffer(*x.shape[:-1], affine.weight.shape[1])
        self.product(x.reshape(-1, x.shape[-1]), affine.weight, affine.bias, out=out.view(-1, out.shape[-1]))
        return out

    def apply_each(self, matrices: Tensor, x: Tensor, buffer: Buffer) -> Tensor:
        """x (..., n, i) @ matrices (n, i, j), one for each of n, in a buffer: (..., n, j)."""
        out = buffer(*x.shape[:-1], matrices.shape[-1])
        rows, out_rows = x.reshape(-1, *x.shape[-2:]), out.view(-1, *out.shape[-2:])
        for i, matrix in enumerate(matrices):
            self.product(rows[:, i], matrix, out=out_rows[:, i])
        return out


def _eager_branched_mlp(state: Tensor, terms: Tensor, member: Tensor, *weights: Any, out: Tensor) -> None:
    """`eager_branched_mlp`, some nodes and branches at a time."""
    rows_each = state.shape[1] * state.shape[2]
    branches = max(1, EAGER_ROWS // rows_each)
    nodes = max(1, EAGER_ROWS // (rows_each * len(member)))
    for n in range(0, len(state), nodes):
        for c in range(0, len(member), branches):
            part = (slice(n, n + nodes), slice(c, c + branches))
            eager_branched_mlp(state[part[0]], terms[:, part[0]], member[part[1]], *weights, out=out[part])
