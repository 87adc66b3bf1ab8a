"""Attention of one layer in a plan: what a node changes is computed, the rest comes from the unpatched run.

It has two forms. The usual one makes keys and values of every position that changed. Where few positions are read from
the last layer, it is cheaper to take the queries to the residual stream instead, and the weighted mean of that to the
values: q . (x Wk) = (q Wk^T) . x. The normed residual stream is then the one key and value head that all query heads
share ("absorbed" projections: DeepSeek-V2, arXiv:2405.04434, section 2.1). A bias of the keys adds the same to all
scores of a query, and so does nothing.

Shapes: N nodes, B pairs, E positions up to the last one that is read, W positions of a window, d d_model, H heads, D
head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pilot.ops.checks import MAX_HEAD_DIM
from pilot.ops.norms import normalised
from pilot.sweep.buffers import Buffers
from pilot.sweep.folded import FoldedBlock, FoldedModel
from pilot.sweep.operators import Operators
from pilot.sweep.plan import Plan, Span


def absorbs(plan: Plan, d_model: int, n_heads: int) -> bool:
    """Whether the last layer's attention multiplies less in the absorbed form, all positions changed."""
    usual = plan.end * 2 * d_model**2
    absorbed = (plan.end - plan.reads[0]) * 2 * (d_model**2 + plan.end * d_model * (n_heads - 1))
    return absorbed < usual and d_model <= MAX_HEAD_DIM


@dataclass(frozen=True)
class LayerRun:
    """What a layer did in an unpatched run.

    start      the first position of q and z, Q in all: in the last layer the first that is read
    absorbed   which form of attention it took
    x          (B, E, d) that entered it
    q          (B, Q, H, D); absorbed: taken to the residual stream, (B, Q, H, d)
    kv         (B, E, 2, H, D) keys and values; absorbed: (B, E, 1, 1, d), x / rms(x), which is both
    z          (B, Q, H, D)
    """

    start: int
    absorbed: bool
    x: Tensor
    q: Tensor
    kv: Tensor
    z: Tensor

    def queried(self, positions: Span) -> slice:
        """Where these positions are in q and z."""
        return slice(positions[0] - self.start, positions[1] - self.start)


class LayerAttention:
    """The attention of each layer of a model."""

    def __init__(self, folded: FoldedModel, operators: Operators, buffers: Buffers):
        self._blocks, self._attention, self._buffers = folded.blocks, operators.patched_attention, buffers

    def unpatched(self, name: str, layer: int, x: Tensor, start: int, absorbed: bool) -> LayerRun:
        """A layer's run, with queries from position `start` on; x (B, E, d). It stands in buffers called `name`."""
        weights, name = self._blocks[layer], f"{name} {layer} "
        normed = self._normed(f"{name}normed", weights, x)
        kv = self._keys_values(f"{name}kv", weights, normed, absorbed)
        q = self._queries(f"{name}q", weights, normed[:, start:], absorbed)
        return LayerRun(start, absorbed, x, q, kv, self._attend(f"{name}z", weights, q, kv, absorbed))

    def patched(self, layer: int, x: Tensor, changed: Span, run: LayerRun, window: Span) -> tuple[Tensor, Tensor]:
        """The residual stream that enters a layer, (N, B, W, d), and the heads' z, (N, B, W, H, D), in a window.

        x (N, B, changed, d) is what nodes have at the positions that they changed; `run` has all others. Every changed
        position that attention carries on is in the window or before it.
        """
        weights, (low, high), end = self._blocks[layer], changed, run.x.shape[1]
        first = max(low, window[0])  # a query before it sees nothing new
        normed = self._normed("normed", weights, x)
        kv = self._keys_values("kv", weights, normed, run.absorbed)
        kv = self._splice("all kv", kv, changed, run.kv, (0, end))
        q = self._queries("q", weights, normed[:, :, first - low :], run.absorbed)
        q = self._splice("all q", q, (first, max(first, high)), run.q[:, run.queried((first, end))], (first, end))
        z = self._attend("z", weights, q.flatten(0, 1), kv.flatten(0, 1), run.absorbed).unflatten(0, q.shape[:2])
        z = self._splice("all z", z, (first, end), run.z[:, run.queried(window)], window)
        return self._splice("all x", x, changed, run.x[:, slice(*window)], window), z

    def _normed(self, name: str, weights: FoldedBlock, x: Tensor) -> Tensor:
        return normalised(x, weights.eps_attn, out=self._buffers.get(name, x.shape))

    def _keys_values(self, name: str, weights: FoldedBlock, normed: Tensor, absorbed: bool) -> Tensor:
        if absorbed:
            return normed[..., None, None, :]
        kv = self._buffers.matmul(name, normed, weights.kv, weights.kv_bias)
        return kv.view(*kv.shape[:-1], 2, weights.n_heads, -1)

    def _queries(self, name: str, weights: FoldedBlock, normed: Tensor, absorbed: bool) -> Tensor:
        q = self._buffers.matmul(name, normed, weights.q, weights.q_bias).unflatten(-1, (weights.n_heads, -1))
        return self._buffers.matmul_each(f"{name} absorbed", q, weights.to_keys) if absorbed else q

    def _attend(self, name: str, weights: FoldedBlock, q: Tensor, kv: Tensor, absorbed: bool) -> Tensor:
        """z (rows, Tq, H, D) of q (rows, Tq, H, ...) and kv (rows, Tk, ...): the last Tq of Tk positions."""
        row = torch.arange(len(q), device=q.device)
        nothing = torch.zeros(q.shape[:3], dtype=torch.bool, device=q.device)
        z = self._attention(
            q,
            kv[:, :, 0],
            kv[:, :, -1],
            q,
            row,
            row,
            nothing,
            scale=weights.head_dim**-0.5,
            out=self._buffers.get(name, q.shape),
        )
        if absorbed:
            z = self._buffers.matmul_each(f"{name} values", z, weights.to_values).add_(weights.values_bias)
        return z

    def _splice(self, name: str, own: Tensor, at: Span, base: Tensor, window: Span) -> Tensor:
        """The positions of `window`: those in `at` from own (N, B, at, ...), the others from base (B, window, ...)."""
        if at == window:
            return own
        start, stop = window
        low, high = (min(max(position, start), stop) for position in at)
        out = self._buffers.get(name, (*own.shape[:2], stop - start, *own.shape[3:]))
        out[:, :, : low - start] = base[:, : low - start]
        out[:, :, low - start : high - start] = own[:, :, low - at[0] : high - at[0]]
        out[:, :, high - start :] = base[:, high - start :]
        return out
