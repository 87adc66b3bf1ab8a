"""`branched_attention`: attention of few queries to keys of which some are a node's own and the others shared.

Causality keeps keys and values before a patch as they were in the unpatched run, and where only the last positions are
read from the last layer, only their queries are computed. With `eps` this is that layer's attention in its "absorbed"
form (DeepSeek-V2, arXiv:2405.04434, section 2.1): queries are taken to the residual stream, q . (x W_K) =
(q W_K^T) . x, and x / rms(x) is the one key and value head that all query heads share.

Shapes: N nodes, B pairs, Q queries, W positions that are the nodes' own, E positions, H heads on H_kv key and value
heads, D head_dim (absorbed: d_model).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pilot.models.attention import causal_attention
from pilot.ops.checks import check_alike, check_shapes
from pilot.ops.norms import inverse_rms
from pilot.ops.registration import register


def branched_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    base_k: Tensor,
    base_v: Tensor,
    start: int,
    first: int,
    scale: float,
    eps: float | None = None,
    *,
    out: Tensor,
) -> None:
    """Causal attention of the queries at positions first, first + 1, ...

    Equivalent to:  all_k, all_v = base_k.repeat(N, 1, 1, 1, 1), base_v.repeat(N, 1, 1, 1, 1)
                    all_k[:, :, start : start + W] = k / rms(k)            # without eps: k
                    all_v[:, :, start : start + W] = v / rms(k)            # without eps: v
                    out[:] = causal_attention(q, all_k[:, :, : first + Q], all_v[:, :, : first + Q], scale=scale)

    q                (N, B, Q, H, D)       last dimension contiguous, here and below; other strides are free
    k, v             (N, B, W, H_kv, D)    the nodes' own; they may be one tensor
    base_k, base_v   (B, E, H_kv, D)       shared by the nodes, used at all other positions
    start            position of the first of k and v
    first            position of the first query; the last one's is before E
    scale            what scores are multiplied by
    eps              divide k and v by rms(k) = sqrt(mean(k ** 2) + eps), the mean over D; None: do not
    out              (N, B, Q, H, D)       written; shares no memory with the others

    On a CPU, in float32 or float64, keys after a query, NaN and infinity among them, do not reach it, and a query has
    the same bits with any number of threads. It is made for few queries: where a key and value head has more than
    about 16, pilot.ops.causal_attention is faster. There is no gradient.

    Raises ValueError or TypeError for arguments that do not fit.
    """
    _branched_attention(q, k, v, base_k, base_v, start, first, scale, eps, out=out)


@torch.no_grad()
def eager_branched_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    base_k: Tensor,
    base_v: Tensor,
    start: int,
    first: int,
    scale: float,
    eps: float | None = None,
    *,
    out: Tensor,
) -> None:
    """`branched_attention` in PyTorch: the operator's oracle, and what runs where it has no kernel."""
    _check(q, k, v, base_k, base_v, start, first, scale, eps, out=out)
    if eps is not None:
        inverse = inverse_rms(k, eps)
        k, v = k * inverse, v * inverse
    end = first + q.shape[2]
    k, v = (_spliced(own, base, start)[:, :, :end].flatten(0, 1) for own, base in ((k, base_k), (v, base_v)))
    out.copy_(causal_attention(q.flatten(0, 1), k, v, scale=scale).view(q.shape))


def _spliced(own: Tensor, base: Tensor, start: int) -> Tensor:
    """base (B, E, ...) for each node, with own (N, B, W, ...) from position `start` on."""
    stop = start + own.shape[2]
    before, after = (part.expand(len(own), *part.shape) for part in (base[:, :start], base[:, stop:]))
    return torch.cat([before, own, after], dim=2)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    base_k: Tensor,
    base_v: Tensor,
    start: int,
    first: int,
    scale: float,
    eps: float | None = None,
    *,
    out: Tensor,
) -> None:
    sizes = check_shapes(
        {},
        q=(q, "N B Q H D"),
        k=(k, "N B W H_kv D"),
        v=(v, "N B W H_kv D"),
        base_k=(base_k, "B E H_kv D"),
        base_v=(base_v, "B E H_kv D"),
        out=(out, "N B Q H D"),
    )
    check_alike("q", q=q, k=k, v=v, base_k=base_k, base_v=base_v, out=out)
    if sizes["H_kv"] == 0 or sizes["H"] % sizes["H_kv"]:
        raise ValueError(f"q has {sizes['H']} heads, not a multiple of the {sizes['H_kv']} of k and v")
    for name, begin, length in (("k", start, sizes["W"]), ("q", first, sizes["Q"])):
        if not 0 <= begin <= sizes["E"] - length:
            raise ValueError(f"{name} has positions {begin} to {begin + length - 1}, but base_k has {sizes['E']}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, not {scale}")
    if eps is not None and not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and not negative, not {eps}")


_branched_attention = register(
    "branched_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor base_k, Tensor base_v, int start, int first, float scale, float? eps=None, "
    "*, Tensor(a!) out) -> ()",
    eager_branched_attention,
    _check,
)
