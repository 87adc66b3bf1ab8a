"""Chooses what the engine computes with: once for a sweep engine, not at every call of an operator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pilot.models.attention import causal_attention
from pilot.ops.branched_mlp import branched_mlp
from pilot.ops.patched_attention import patched_attention


class Operators(NamedTuple):
    """Attention and the branches' MLP, each in one implementation."""

    causal_attention: Callable[..., Tensor]
    branched_mlp: Callable[..., Any]

    @classmethod
    def of(cls, impl: str) -> Operators:
        """Those of "fused" or "eager"."""
        attention = _fused_attention if impl == "fused" else _eager_attention
        return cls(attention, partial(branched_mlp, impl=impl))


def _eager_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, out: Tensor) -> Tensor:
    return out.copy_(causal_attention(q, k, v, scale=scale))


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, out: Tensor) -> Tensor:
    row = torch.arange(len(q), device=q.device)
    nothing = torch.zeros(q.shape[:3], dtype=torch.bool, device=q.device)
    return patched_attention(q, k, v, q, row, row, nothing, scale=scale, impl="fused", out=out)
