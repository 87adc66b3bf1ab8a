"""Walks a plan: evaluates the trie of interventions on one chunk of pairs, depth first.

What a patch adds to the state of a row (pilot.folding) is one product for each node and head, however many branches patch that
head. So a branch costs additions, an activation function and one matrix product.

Shapes: B pairs of the chunk, E positions up to the last one that is read, R read positions, N nodes and C branches of one
batch, W positions of a window, V vocabulary, d d_model, m d_mlp, H heads, D head_dim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pilot.attention import patched_attention
from pilot.folding import FoldedModel
from pilot.plan import Branch, LayerPatch, Node, Plan, Span

Emit = Callable[[list[int], Tensor], None]  # numbers of n interventions, and their logits (n, B, R, V)
Terms = dict[LayerPatch, tuple[Span, Tensor]]


@dataclass(frozen=True)
class LayerRun:
    """What a layer did in an unpatched run: x (B, E, d) that entered it, q and z (B, E, H, D), kv (B, E, 2, H, D)."""

    x: Tensor
    q: Tensor
    kv: Tensor
    z: Tensor


@dataclass(frozen=True)
class Chunk:
    """Some pairs, and what is done with them.

    donor   for each layer z, (B or 1, E, H, D)
    read    (B, R) int64
    """

    plan: Plan
    recipient: list[LayerRun]
    donor: Sequence[Tensor]
    read: Tensor
    emit: Emit


class Walker:
    """Evaluates chunk after chunk, in buffers that are made once.

    impl   "fused" or "eager": how attention is computed
    rows   rows of the residual stream (node or branch, pair, position) to compute at a time
    """

    def __init__(self, weights: FoldedModel, impl: str, rows: int):
        self._weights, self._impl, self._rows = weights, impl, rows
        self._last = len(weights.blocks) - 1
        self._buffers: dict[tuple[str, int], Tensor] = {}

    def unpatched(self, ids: Tensor) -> list[LayerRun]:
        """What every layer does for ids (B, E) int64."""
        x = self._weights.tokens[ids] + self._weights.positions[: ids.shape[1]]
        runs: list[LayerRun] = []
        for layer, block in enumerate(self._weights.blocks):
            normed = x * _inverse_rms(x, block.eps_attn)
            q = torch.add(normed @ block.q, block.q_bias).unflatten(-1, (block.n_heads, -1))
            kv = torch.add(normed @ block.kv, block.kv_bias).unflatten(-1, (2, block.n_heads, -1))
            runs.append(LayerRun(x, q, kv, self._attend(layer, q, kv).clone()))
            if layer < self._last:
                x = self._mlp(layer, self._state(layer, x, runs[-1].z)).clone()
        return runs

    def walk(self, chunk: Chunk) -> None:
        """Evaluate every intervention of the chunk's plan on its pairs, and emit the logits batch by batch."""
        self._visit(chunk, [chunk.plan.root], None)

    def _visit(self, chunk: Chunk, nodes: list[Node], x: Tensor | None) -> None:
        """Evaluate nodes of one shape, and all behind them. x (N, B, changed, d); None: the unpatched run's node."""
        layer = nodes[0].layer
        if layer < self._last and nodes[0].branches[0].changed is None:
            self._visit(chunk, [nodes[0].branches[0].node], None)  # nothing to compute here
        window = chunk.plan.window(nodes[0])
        if window is None:
            return
        for part in self._parts(len(nodes), len(chunk.read) * (window[1] - window[0])):
            self._evaluate(chunk, nodes[part], None if x is None else x[part], window)

    def _evaluate(self, chunk: Chunk, nodes: list[Node], x: Tensor | None, window: Span) -> None:
        """Evaluate one batch of nodes: attention at the positions of the window, then what each branch makes of it."""
        layer = nodes[0].layer
        x, z = self._attention(chunk, nodes[0], x, window)  # (N, B, W, d), (N, B, W, H, D)
        donor = chunk.donor[layer][None, :, slice(*window)]  # (1, B or 1, W, H, D)
        if layer == self._last:  # from here on W is R: the positions that each pair reads
            x, z, donor = (_gather(tensor, chunk.read - window[0]) for tensor in (x, z, donor))
        state = self._state(layer, x, z)  # (N, B, W, d + m), as if nothing were patched in this layer
        terms = self._terms(chunk, nodes[0], donor, z, window)
        for span, numbers in self._by_span(nodes[0], window, state.shape[2]):
            base = state[:, :, slice(*span)]
            for part in self._parts(len(numbers), base.shape[:3].numel()):
                branches = [nodes[0].branches[i] for i in numbers[part]]
                states = self._patch(layer, branches, base, span, terms)
                after = self._mlp(layer, states).flatten(0, 1)  # (C * N, B, positions, d)
                self._go_on(chunk, layer, [node.branches[i] for i in numbers[part] for node in nodes], after)

    def _go_on(self, chunk: Chunk, layer: int, branches: list[Branch], x: Tensor) -> None:
        """Visit the nodes behind the branches; behind the last layer emit their logits. x (C * N, B, positions, d)."""
        if layer == self._last:
            normed = torch.mul(x, _inverse_rms(x, self._weights.eps), out=self._buffer("normed", layer, x.shape))
            logits = self._matmul("logits", layer, normed, self._weights.unembed, self._weights.unembed_bias)
            chunk.emit([branch.intervention for branch in branches], logits)
            return
        by_shape = defaultdict(list)
        for i, branch in enumerate(branches):
            by_shape[branch.node.shape].append(i)
        for members in by_shape.values():
            self._visit(
                chunk, [branches[i].node for i in members], x if len(members) == len(branches) else x[members]
            )

    def _attention(self, chunk: Chunk, node: Node, x: Tensor | None, window: Span) -> tuple[Tensor, Tensor]:
        """The residual stream that enters a layer, (N, B, W, d), and the heads' z, (N, B, W, H, D)."""
        layer, run, end = node.layer, chunk.recipient[node.layer], chunk.plan.end
        if x is None:
            return run.x[None, :, slice(*window)], run.z[None, :, slice(*window)]
        block, (low, high) = self._weights.blocks[layer], node.changed
        first = max(low, window[0])  # a query before it sees nothing new
        normed = torch.mul(x, _inverse_rms(x, block.eps_attn), out=self._buffer("normed", layer, x.shape))
        kv = self._matmul("kv", layer, normed, block.kv, block.kv_bias).unflatten(-1, (2, block.n_heads, -1))
        kv = self._splice("all kv", layer, kv, (low, high), run.kv, (0, end))
        q = self._matmul("q", layer, normed[:, :, first - low :], block.q, block.q_bias)
        q = q.unflatten(-1, (block.n_heads, -1))
        q = self._splice("all q", layer, q, (first, max(first, high)), run.q, (first, end))
        z = self._attend(layer, q.flatten(0, 1), kv.flatten(0, 1)).view(q.shape)
        z = self._splice("all z", layer, z, (first, end), run.z, window)
        return self._splice("all x", layer, x, (low, high), run.x, window), z

    def _state(self, layer: int, x: Tensor, z: Tensor) -> Tensor:
        """The state of rows that come out of attention unpatched: x (..., d), z (..., H, D) -> (..., d + m)."""
        block = self._weights.blocks[layer]
        d_model = x.shape[-1]
        state = self._buffer("state", layer, (*x.shape[:-1], block.head_state.shape[-1]))
        rows = state.view(-1, state.shape[-1])
        residual = self._matmul("residual", layer, z.flatten(-2), block.out, block.out_bias).add_(x)
        rows[:, :d_model] = residual.view(-1, d_model)
        torch.mm(rows[:, :d_model], block.mlp_in, out=rows[:, d_model:])
        return state

    def _terms(self, chunk: Chunk, node: Node, donor: Tensor, z: Tensor, window: Span) -> Terms:
        """What every patch of the node's branches adds to the state: its positions, and (N, B, positions, d + m)."""
        layer, block = node.layer, self._weights.blocks[node.layer]
        patches = sorted({patch for branch in node.branches for patch in branch.patches})
        if not patches:
            return {}
        difference = torch.sub(donor, z, out=self._buffer("difference", layer, z.shape))
        terms, of_head = {}, {}
        for head, start, stop in patches:
            if head not in of_head:
                of_head[head] = self._matmul(f"head {head}", layer, difference[..., head, :], block.head_state[head])
            if layer < self._last:
                span = start - window[0], stop - window[0]
                terms[head, start, stop] = span, of_head[head][:, :, slice(*span)]
            else:
                inside = (chunk.read >= start) & (chunk.read < stop)  # (B, R)
                term = of_head[head] if inside.all() else of_head[head] * inside.unsqueeze(-1)
                terms[head, start, stop] = (0, term.shape[2]), term
        return terms

    def _by_span(self, node: Node, window: Span, width: int) -> Iterator[tuple[Span, list[int]]]:
        """The node's branches by the positions, counted in the window, that they change; at the last layer all."""
        if node.layer == self._last:
            yield (0, width), list(range(len(node.branches)))
            return
        by_span = defaultdict(list)
        for i, branch in enumerate(node.branches):
            if branch.changed is not None:
                by_span[branch.changed[0] - window[0], branch.changed[1] - window[0]].append(i)
        yield from by_span.items()

    def _patch(self, layer: int, branches: list[Branch], base: Tensor, span: Span, terms: Terms) -> Tensor:
        """The states of branches that all change the positions `span`: base (N, B, W, d + m) -> (C, N, B, W, d + m)."""
        states = self._buffer("states", layer, (len(branches), *base.shape))
        done: dict[tuple[LayerPatch, ...], Tensor] = {}
        for branch, state in zip(branches, states, strict=True):
            shorter = done.get(branch.patches[:-1]) if branch.patches else None
            start, missing = (base, branch.patches) if shorter is None else (shorter, branch.patches[-1:])
            _add(start, [terms[patch] for patch in missing], span, state)
            done[branch.patches] = state
        return states

    def _mlp(self, layer: int, state: Tensor) -> Tensor:
        """state (..., d + m) -> the residual stream behind the layer, (..., d)."""
        block = self._weights.blocks[layer]
        d_model, d_mlp = block.mlp_in.shape
        x, inputs = state.split([d_model, d_mlp], dim=-1)
        hidden = self._buffer("hidden", layer, inputs.shape)
        torch.addcmul(block.mlp_in_bias, inputs, _inverse_rms(x, block.eps_mlp), out=hidden)
        torch.ops.aten.gelu_(hidden)
        after = self._buffer("after", layer, x.shape)
        torch.add(x, block.mlp_out_bias, out=after)
        after.view(-1, d_model).addmm_(hidden.view(-1, d_mlp), block.mlp_out)
        return after

    def _attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """q (rows, Tq, H, D), kv (rows, Tk, 2, H, D) -> z (rows, Tq, H, D)."""
        row = torch.arange(len(q), device=q.device)
        nothing = torch.zeros(q.shape[:3], dtype=torch.bool, device=q.device)
        out = self._buffer("z", layer, q.shape)
        return patched_attention(q, *kv.unbind(2), q, row, row, nothing, impl=self._impl, out=out)

    def _splice(self, name: str, layer: int, own: Tensor, at: Span, base: Tensor, window: Span) -> Tensor:
        """The positions of `window`: those in `at` from own (N, B, at, ...), the others from base (B, E, ...)."""
        if at == window:
            return own
        start, stop = window
        low, high = (min(max(position, start), stop) for position in at)
        out = self._buffer(name, layer, (*own.shape[:2], stop - start, *own.shape[3:]))
        out[:, :, : low - start] = base[:, start:low]
        out[:, :, low - start : high - start] = own[:, :, low - at[0] : high - at[0]]
        out[:, :, high - start :] = base[:, high:stop]
        return out

    def _matmul(self, name: str, layer: int, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        out = self._buffer(name, layer, (*x.shape[:-1], matrix.shape[1]))
        rows, out_rows = x.reshape(-1, x.shape[-1]), out.view(-1, matrix.shape[1])
        if bias is None:
            torch.mm(rows, matrix, out=out_rows)
        else:
            torch.addmm(bias, rows, matrix, out=out_rows)
        return out

    def _buffer(self, name: str, layer: int, shape: Sequence[int]) -> Tensor:
        """An uninitialised tensor that is good until the next call with this name and layer."""
        shape = torch.Size(shape)
        buffer = self._buffers.get((name, layer))
        if buffer is None or buffer.numel() < shape.numel():
            buffer = self._buffers[name, layer] = self._weights.tokens.new_empty(shape.numel())
        return buffer[: shape.numel()].view(shape)

    def _parts(self, count: int, rows_each: int) -> Iterator[slice]:
        """Slices of `count` things of so many rows each, as many at a time as the rows allow, at least one."""
        at_once = max(1, self._rows // rows_each)
        return (slice(first, first + at_once) for first in range(0, count, at_once))


def _add(start: Tensor, terms: list[tuple[Span, Tensor]], span: Span, out: Tensor) -> None:
    """out = start plus each term at its positions; start and out (N, B, span, d + m)."""
    if terms and terms[0][0] == span:
        torch.add(start, terms[0][1], out=out)
        terms = terms[1:]
    else:
        out.copy_(start)
    for (low, high), term in terms:
        out[:, :, low - span[0] : high - span[0]] += term


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """x (..., d) -> 1 / sqrt(mean of squares + eps), (..., 1)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _gather(x: Tensor, positions: Tensor) -> Tensor:
    """x (N, B or 1, W, ...) at each pair's own positions (B, R): (N, B, R, ...)."""
    if positions.shape[1] == x.shape[2] and bool((positions == torch.arange(x.shape[2], device=x.device)).all()):
        return x
    pair = torch.arange(len(positions), device=x.device)[:, None]
    return x.expand(-1, len(positions), *x.shape[2:])[:, pair, positions]
