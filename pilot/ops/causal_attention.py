"""`causal_attention`: plain attention, by the kernels of `patched_attention`."""

from __future__ import annotations

import torch
from torch import Tensor

from pilot.models.attention import causal_attention as attention_written_out
from pilot.ops.checks import check_attention
from pilot.ops.registration import register


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, out: Tensor) -> None:
    """Softmax attention in which a position sees itself and those before it.

    Equivalent to:  out[:] = pilot.models.attention.causal_attention(q, k, v, scale=scale)

    q       (P, Tq, H, D)       the last dimension of each tensor is contiguous; strides of the others are free
    k, v    (P, Tk, H_kv, D)    Tk >= Tq: queries are the last Tq positions; H a multiple of H_kv
    scale   what scores are multiplied by
    out     (P, Tq, H, D)       written; contiguous, shares no memory with the others

    On a CPU, in float32 or float64, keys after a query, NaN and infinity among them, do not reach it, and a query has
    the same bits with any number of threads. There is no gradient.

    Raises ValueError or TypeError for arguments that do not fit.
    """
    _causal_attention(q, k, v, scale=scale, out=out)


@torch.no_grad()
def eager_causal_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, out: Tensor) -> None:
    """`causal_attention` in PyTorch: the operator's oracle, and what runs where it has no kernel."""
    _check(q, k, v, scale=scale, out=out)
    out.copy_(attention_written_out(q, k, v, scale=scale))


def _check(q: Tensor, k: Tensor, v: Tensor, *, scale: float, out: Tensor) -> None:
    check_attention(q, k, v, scale, out)
    if out.shape != q.shape:
        raise ValueError(f"out must have the shape of q, {list(q.shape)}, not {list(out.shape)}")


_causal_attention = register(
    "causal_attention",
    "(Tensor q, Tensor k, Tensor v, *, float scale, Tensor(a!) out) -> ()",
    eager_causal_attention,
    _check,
)
