"""Causal attention, written out.

Shapes: Tq queries, the last of Tk positions; n_heads heads on n_kv_heads key and value heads of head_dim each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """Softmax attention in which a position sees itself and those before it.

    q         (batch, Tq, n_heads, head_dim)      the last Tq of Tk positions
    k, v      (batch, Tk, n_kv_heads, head_dim)   n_heads a multiple of n_kv_heads
    returns   (batch, Tq, n_heads, head_dim), contiguous

    Written out as matmul, softmax, matmul: at the 16-22 positions of this task that is faster on a CPU than
    torch.nn.functional.scaled_dot_product_attention.
    """
    pattern = attention_pattern(q, k, scale=scale)
    z = _by_kv_head(pattern, v.shape[2]) @ v.transpose(1, 2)
    return z.view(*pattern.shape[:3], v.shape[3]).transpose(1, 2).contiguous()


def attention_pattern(q: Tensor, k: Tensor, *, scale: float | None = None) -> Tensor:
    """How much each query attends to the keys up to its own position: (batch, n_heads, Tq, Tk), rows that add up to 1.

    q and k as for `causal_attention`.
    """
    batch, n_queries, n_heads, head_dim = q.shape
    n_keys = k.shape[1]
    future = torch.full((n_queries, n_keys), -math.inf, dtype=q.dtype, device=q.device).triu(n_keys - n_queries + 1)
    q = q.transpose(1, 2) * (1 / math.sqrt(head_dim) if scale is None else scale)
    scores = _by_kv_head(q, k.shape[2]) @ k.permute(0, 2, 3, 1)
    return (scores.view(batch, n_heads, n_queries, n_keys) + future).softmax(-1)


def _by_kv_head(x: Tensor, n_kv_heads: int) -> Tensor:
    """x (batch, n_heads, Tq, ...): the heads that share keys and values as if they were more queries of one head."""
    batch, n_heads, n_queries, last = x.shape
    return x.reshape(batch, n_kv_heads, n_heads // max(n_kv_heads, 1) * n_queries, last)
