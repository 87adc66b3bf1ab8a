"""Attention of one layer in a plan: what a node changes is computed, the rest comes from the unpatched run.

It has two forms. The usual one makes keys and values of every position that changed. Where few positions are read from
the last layer, and positions are not turned into the keys (rotary embedding), it is cheaper to take the queries to the
residual stream instead, and the weighted mean of that to the values: q . (x Wk) = (q Wk^T) . x. The normed residual
stream is then the one key and value head that all query heads share ("absorbed" projections: DeepSeek-V2,
arXiv:2405.04434, section 2.1). A bias of the keys adds the same to all scores of a query, and so does nothing.

Shapes: N nodes, B pairs, E positions up to the last one that is read, W positions of a window, d d_model, H heads on
H_kv key and value heads, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pilot.ops.checks import MAX_HEAD_DIM
from pilot.ops.norms import normalised
from pilot.sweep.buffers import Buffer, RunBuffers, Scratch
from pilot.sweep.operators import Operators
from pilot.sweep.plan import Plan, Span
from pilot.sweep.program import Affine, AttentionProgram

FEW_QUERIES = 8  # positions up to which `branched_attention` is faster than attention that works on tiles of queries


def absorbs(program: AttentionProgram, plan: Plan) -> bool:
    """Whether the last layer's attention can be absorbed and multiplies less so, all positions changed."""
    d_model, width = program.q.weight.shape
    usual = plan.end * (program.k.weight.numel() + program.v.weight.numel())
    queries = plan.end - plan.reads[0]
    absorbed = queries * 2 * (d_model * width + plan.end * (d_model * program.n_heads - width))
    return _absorbable(program) and absorbed < usual and d_model <= MAX_HEAD_DIM


def _absorbable(program: AttentionProgram) -> bool:
    return program.rotary is None and program.q_norm is None and program.k_norm is None


@dataclass(frozen=True)
class LayerRun:
    """What a layer did in an unpatched run.

    start      the first position of q and z, Q in all: in the last layer the first that is read
    absorbed   which form of attention it took
    x          (B, E, d) that entered it
    q          (B, Q, H, D); absorbed: taken to the residual stream, (B, Q, H, d)
    kv         (B, E, 2, H_kv, D) keys and values; absorbed: (B, E, 1, 1, d), x / rms(x), which is both
    z          (B, Q, H, D)
    """

    start: int
    absorbed: bool
    x: Tensor
    q: Tensor
    kv: Tensor
    z: Tensor

    def rows(self, part: slice) -> LayerRun:
        """The run of these rows alone."""
        return replace(self, x=self.x[part], q=self.q[part], kv=self.kv[part], z=self.z[part])

    def queried(self, positions: Span) -> slice:
        """Where these positions are in q and z."""
        return slice(positions[0] - self.start, positions[1] - self.start)


class LayerAttention:
    """The attention of one layer of a program."""

    def __init__(self, program: AttentionProgram, operators: Operators):
        self._program, self._operators = program, operators
        self._heads_each = program.n_heads // program.n_kv_heads
        biases = (program.k.bias, program.v.bias)
        both = None if biases == (None, None) else torch.cat([_bias(program.k), _bias(program.v)])
        self._kv = Affine(torch.cat([program.k.weight, program.v.weight], dim=1), both)
        if _absorbable(program):
            # By head: what takes a query to the residual stream (H, D, d), and a mean of that to values (H, d, D).
            by_head = (program.n_kv_heads, program.head_dim)
            keys, values = (
                each.weight.unflatten(1, by_head).repeat_interleave(self._heads_each, 1)
                for each in (program.k, program.v)
            )
            self._to_keys, self._to_values = keys.permute(1, 2, 0).contiguous(), values.transpose(0, 1).contiguous()
            self._values_bias = _bias(program.v).unflatten(0, by_head).repeat_interleave(self._heads_each, 0)

    def unpatched(self, x: Tensor, start: int, absorbed: bool, buffers: RunBuffers, scratch: Scratch) -> LayerRun:
        """The layer's run of x (B, E, d), with queries from position `start` on. It stands in `buffers`."""
        normed = normalised(x, self._program.eps, out=scratch.normed(*x.shape))
        if absorbed:  # normed is kept
            normed = buffers.kv(*x.shape).copy_(normed)
        kv = self._keys_values(normed, 0, absorbed, buffers.kv)
        q = self._queries(normed[:, start:], start, absorbed, scratch.projected, buffers.q)
        z = self._attend(q, kv, absorbed, scratch, buffers.z)
        return LayerRun(start, absorbed, x, q, kv, z)

    def patched(self, x: Tensor, changed: Span, run: LayerRun, window: Span, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """The residual stream that enters the layer, (N, B, W, d), and the heads' z, (N, B, W, H, D), in a window.

        x (N, B, changed, d) is what nodes have at the positions that they changed; `run` has all others. Every changed
        position that attention carries on is in the window or before it.
        """
        (low, high), end = changed, run.x.shape[1]
        first = max(low, window[0])  # a query before it sees nothing new
        normed = normalised(x, self._program.eps, out=scratch.normed(*x.shape))
        q = self._queries(normed[:, :, first - low :], first, run.absorbed, scratch.projected, scratch.q)
        own = (first, max(first, high))
        q = _splice(scratch.spliced_q, q, own, run.q[:, run.queried((first, end))], (first, end))
        if run.absorbed:  # the operator norms the stream itself
            z = self._attend_few(q, x[..., None, None, :], low, first, run, self._program.eps, scratch)
        else:
            kv = self._keys_values(normed, low, False, scratch.kv)
            if q.shape[2] <= FEW_QUERIES:
                z = self._attend_few(q, kv, low, first, run, None, scratch)
            else:
                kv = _splice(scratch.spliced_kv, kv, changed, run.kv, (0, end))
                z = self._attend(q.flatten(0, 1), kv.flatten(0, 1), False, scratch, scratch.z).view(q.shape)
        z = _splice(scratch.spliced_z, z, (first, end), run.z[:, run.queried(window)], window)
        return _splice(scratch.spliced_x, x, changed, run.x[:, slice(*window)], window), z

    def _keys_values(self, normed: Tensor, first: int, absorbed: bool, buffer: Buffer) -> Tensor:
        """Of normed (..., T, d), which stands at positions `first` and behind: (..., T, 2, H_kv, D)."""
        if absorbed:
            return normed[..., None, None, :]
        program = self._program
        kv = self._operators.apply(self._kv, normed, buffer)
        kv = kv.view(*kv.shape[:-1], 2, program.n_kv_heads, program.head_dim)
        if program.rotary is not None or program.k_norm is not None:
            kv[..., 0, :, :] = program.turned_keys(kv[..., 0, :, :], first)
        return kv

    def _queries(self, normed: Tensor, first: int, absorbed: bool, plain: Buffer, taken: Buffer) -> Tensor:
        """Of normed (..., T, d) at positions `first` and behind: (..., T, H, D), or absorbed (..., T, H, d)."""
        program = self._program
        if absorbed:
            q = self._operators.apply(program.q, normed, plain)
            return self._operators.apply_each(
                self._to_keys, q.view(*q.shape[:-1], program.n_heads, program.head_dim), taken
            )
        q = self._operators.apply(program.q, normed, taken)
        q = q.view(*q.shape[:-1], program.n_heads, program.head_dim)
        if program.rotary is not None or program.q_norm is not None:
            q.copy_(program.turned_queries(q, first))
        return q

    def _attend_few(
        self, q: Tensor, kv: Tensor, low: int, first: int, run: LayerRun, eps: float | None, scratch: Scratch
    ) -> Tensor:
        """z (N, B, Q, H, D) of q (N, B, Q, H, ...) from position `first` on; the nodes' own kv begins at `low`."""
        out = (scratch.absorbed_z if run.absorbed else scratch.z)(*q.shape)
        k, v, base_k, base_v = kv[..., 0, :, :], kv[..., -1, :, :], run.kv[:, :, 0], run.kv[:, :, -1]
        self._operators.branched_attention(q, k, v, base_k, base_v, low, first, self._program.scale, eps, out=out)
        return self._values_of(out, scratch.z) if run.absorbed else out

    def _values_of(self, z: Tensor, buffer: Buffer) -> Tensor:
        """Means of the residual stream (..., H, d), to those of values (..., H, D)."""
        return self._operators.apply_each(self._to_values, z, buffer).add_(self._values_bias)

    def _attend(self, q: Tensor, kv: Tensor, absorbed: bool, scratch: Scratch, buffer: Buffer) -> Tensor:
        """z (rows, Tq, H, D) of q (rows, Tq, H, ...) and kv (rows, Tk, ...): the last Tq of Tk positions."""
        out = (scratch.absorbed_z if absorbed else buffer)(*q.shape)
        self._operators.causal_attention(q, kv[:, :, 0], kv[:, :, -1], scale=self._program.scale, out=out)
        return self._values_of(out, buffer) if absorbed else out


def _bias(affine: Affine) -> Tensor:
    return affine.weight.new_zeros(affine.weight.shape[1]) if affine.bias is None else affine.bias


def _splice(buffer: Buffer, own: Tensor, at: Span, base: Tensor, window: Span) -> Tensor:
    """The positions of `window`: those in `at` from own (N, B, at, ...), the others from base (B, window, ...)."""
    if at == window:
        return own
    start, stop = window
    low, high = (min(max(position, start), stop) for position in at)
    out = buffer(*own.shape[:2], stop - start, *own.shape[3:])
    out[:, :, : low - start] = base[:, : low - start]
    out[:, :, low - start : high - start] = own[:, :, low - at[0] : high - at[0]]
    out[:, :, high - start :] = base[:, high - start :]
    return out
