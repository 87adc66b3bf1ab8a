"""Root mean square normalisation, x / rms(x), what every LayerNorm is once it is folded into its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """x (..., d) -> 1 / sqrt(mean of squares + eps), (..., 1)."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def normalised(x: Tensor, eps: float, out: Tensor) -> Tensor:
    """x / rms(x), written to `out`; both (..., d)."""
    return torch.mul(x, inverse_rms(x, eps), out=out)
