"""Walks a plan: evaluates the trie of interventions on one chunk of pairs, depth first.

What a patched head adds to the state of a row (pilot.folding) is one product for each node, however many branches patch
that head. So a branch costs additions and an activation function (pilot.branching), and one matrix product.

Shapes: B pairs of the chunk, E positions up to the last one that is read, R read positions, N nodes and C branches of
each in one batch, W positions of a window, K heads that the branches patch, V vocabulary, d d_model, m d_mlp, H heads,
D head_dim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pilot.attention import patched_attention
from pilot.branching import branched_hidden, membership
from pilot.folding import FoldedModel, inverse_rms
from pilot.plan import Branch, Node, Plan, Span
from pilot.workspace import Workspace

# A batch of nodes makes so many times `rows` rows of branches: Python takes half a millisecond for the smallest batch.
PARTS_OF_A_BATCH = 4

Emit = Callable[[list[int], Tensor], None]  # numbers of n interventions, and their logits (n, B, R, V)


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

    @cached_property
    def read_on_cpu(self) -> Tensor:
        return self.read.cpu()


class Walker:
    """Evaluates chunk after chunk, in buffers that are made once.

    A buffer that is still wanted when the nodes behind a branch have been visited has the layer in its name; the others
    are shared by all layers, and so stay in cache.

    impl   "fused" or "eager": how attention and branches are computed
    rows   rows of the residual stream (branch, pair, position) whose hidden units are computed at a time
    """

    def __init__(self, weights: FoldedModel, impl: str, rows: int):
        self._weights, self._impl, self._rows = weights, impl, rows
        self._last = len(weights.blocks) - 1
        self._space = Workspace(weights.tokens)

    def unpatched(self, ids: Tensor) -> list[LayerRun]:
        """What every layer does for ids (B, E) int64."""
        x = self._weights.tokens[ids] + self._weights.positions[: ids.shape[1]]
        runs: list[LayerRun] = []
        for layer, block in enumerate(self._weights.blocks):
            normed = x * inverse_rms(x, block.eps_attn)
            q = torch.add(normed @ block.q, block.q_bias).unflatten(-1, (block.n_heads, -1))
            kv = torch.add(normed @ block.kv, block.kv_bias).unflatten(-1, (2, block.n_heads, -1))
            runs.append(LayerRun(x, q, kv, self._attend(q, kv).clone()))
            if layer < self._last:
                state = self._state(layer, x[None], runs[-1].z[None])  # one node, one branch, no terms
                nothing = torch.zeros(1, *x.shape[:2], 0, dtype=torch.bool)
                x = self._mlp(layer, state, state.new_empty(0, *state.shape), nothing)[0, 0].clone()
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
        fan_out = max(len(numbers) for _, numbers in self._by_span(chunk, nodes[0], window))
        rows_each = len(chunk.read) * (window[1] - window[0]) * fan_out
        for part in _parts(len(nodes), rows_each, PARTS_OF_A_BATCH * self._rows):
            self._evaluate(chunk, nodes[part], None if x is None else x[part], window)

    def _evaluate(self, chunk: Chunk, nodes: list[Node], x: Tensor | None, window: Span) -> None:
        """Evaluate one batch of nodes: attention at the positions of the window, then what each branch makes of it."""
        node, layer = nodes[0], nodes[0].layer
        x, z = self._attention(chunk, node, x, window)  # (N, B, W, d), (N, B, W, H, D)
        donor = chunk.donor[layer][None, :, slice(*window)]  # (1, B or 1, W, H, D)
        position = torch.arange(*window).expand(len(chunk.read), -1)  # (B, W)
        if layer == self._last:  # from here on W is R: the positions that each pair reads
            x, z, donor = (_gather(tensor, chunk.read - window[0]) for tensor in (x, z, donor))
            position = chunk.read_on_cpu
        heads = sorted({head for branch in node.branches for head, _, _ in branch.patches})
        state = self._state(layer, x, z)  # (N, B, W, d + m), as if nothing were patched in this layer
        terms = self._terms(layer, heads, donor, z)  # (K, N, B, W, d + m)
        for span, numbers in self._by_span(chunk, node, window):
            at = slice(*span)
            for part in _parts(len(numbers), state[:, :, at].shape[:3].numel(), PARTS_OF_A_BATCH * self._rows):
                member = membership([node.branches[i].patches for i in numbers[part]], heads, position[:, at])
                after = self._mlp(layer, state[:, :, at], terms[:, :, :, at], member)
                branches = [each.branches[i] for each in nodes for i in numbers[part]]
                self._go_on(chunk, layer, branches, after.flatten(0, 1))

    def _go_on(self, chunk: Chunk, layer: int, branches: list[Branch], x: Tensor) -> None:
        """Visit the nodes behind the branches; behind the last layer emit their logits. x (N * C, B, positions, d)."""
        if layer == self._last:
            normed = torch.mul(x, inverse_rms(x, self._weights.eps), out=self._space.buffer("normed", x.shape))
            logits = self._space.matmul("logits", normed, self._weights.unembed, self._weights.unembed_bias)
            chunk.emit([branch.intervention for branch in branches], logits)
            return
        by_shape = defaultdict(list)
        for i, branch in enumerate(branches):
            by_shape[branch.node.shape].append(i)
        for members in by_shape.values():
            self._visit(chunk, [branches[i].node for i in members], x if len(members) == len(branches) else x[members])

    def _attention(self, chunk: Chunk, node: Node, x: Tensor | None, window: Span) -> tuple[Tensor, Tensor]:
        """The residual stream that enters a layer, (N, B, W, d), and the heads' z, (N, B, W, H, D)."""
        layer, run, end = node.layer, chunk.recipient[node.layer], chunk.plan.end
        if x is None:
            return run.x[None, :, slice(*window)], run.z[None, :, slice(*window)]
        block, (low, high) = self._weights.blocks[layer], node.changed
        first = max(low, window[0])  # a query before it sees nothing new
        normed = torch.mul(x, inverse_rms(x, block.eps_attn), out=self._space.buffer("normed", x.shape))
        kv = self._space.matmul("kv", normed, block.kv, block.kv_bias).unflatten(-1, (2, block.n_heads, -1))
        kv = self._splice("all kv", kv, (low, high), run.kv, (0, end))
        q = self._space.matmul("q", normed[:, :, first - low :], block.q, block.q_bias)
        q = q.unflatten(-1, (block.n_heads, -1))
        q = self._splice("all q", q, (first, max(first, high)), run.q, (first, end))
        z = self._attend(q.flatten(0, 1), kv.flatten(0, 1)).view(q.shape)
        z = self._splice("all z", z, (first, end), run.z, window)
        return self._splice("all x", x, (low, high), run.x, window), z

    def _state(self, layer: int, x: Tensor, z: Tensor) -> Tensor:
        """The state of rows that come out of attention unpatched: x (..., d), z (..., H, D) -> (..., d + m)."""
        block = self._weights.blocks[layer]
        d_model = x.shape[-1]
        state = self._space.buffer(f"state {layer}", (*x.shape[:-1], block.head_state.shape[-1]))
        rows = state.view(-1, state.shape[-1])
        residual = self._space.matmul("residual", z.flatten(-2), block.out, block.out_bias).add_(x)
        rows[:, :d_model] = residual.view(-1, d_model)
        torch.mm(rows[:, :d_model], block.mlp_in, out=rows[:, d_model:])
        return state

    def _terms(self, layer: int, heads: list[int], donor: Tensor, z: Tensor) -> Tensor:
        """What the donor's z adds to the state, head by head: z (N, B, W, H, D) -> (K, N, B, W, d + m)."""
        head_state = self._weights.blocks[layer].head_state
        difference = torch.sub(donor, z, out=self._space.buffer("difference", z.shape))
        terms = self._space.buffer(f"terms {layer}", (len(heads), *z.shape[:3], head_state.shape[-1]))
        for head, term in zip(heads, terms, strict=True):
            rows = difference[..., head, :].reshape(-1, difference.shape[-1])
            torch.mm(rows, head_state[head], out=term.view(-1, term.shape[-1]))
        return terms

    def _by_span(self, chunk: Chunk, node: Node, window: Span) -> list[tuple[Span, list[int]]]:
        """The node's branches by the positions, counted in the window, that they change; at the last layer all."""
        if node.layer == self._last:
            return [((0, chunk.read.shape[1]), list(range(len(node.branches))))]
        by_span = defaultdict(list)
        for i, branch in enumerate(node.branches):
            if branch.changed is not None:
                by_span[branch.changed[0] - window[0], branch.changed[1] - window[0]].append(i)
        return list(by_span.items())

    def _mlp(self, layer: int, state: Tensor, terms: Tensor, member: Tensor) -> Tensor:
        """The residual stream behind the layer in each branch, (N, C, B, W, d): arguments as for `branched_hidden`."""
        block = self._weights.blocks[layer]
        d_model, d_mlp = block.mlp_in.shape
        n, c, b, w = len(state), *member.shape[:3]
        after = self._space.buffer(f"after {layer}", (n, c, b, w, d_model))
        for nodes in _parts(n, c * b * w, self._rows):
            for branches in _parts(c, len(state[nodes]) * b * w, self._rows):  # all of them, or there is one node
                out = after[nodes, branches]
                hidden = self._space.buffer("hidden", (*out.shape[:-1], d_mlp))
                branched_hidden(
                    state[nodes],
                    terms[:, nodes],
                    member[branches],
                    block.mlp_in_bias,
                    block.mlp_out_bias,
                    block.eps_mlp,
                    impl=self._impl,
                    hidden=hidden,
                    after=out,
                )
                out.view(-1, d_model).addmm_(hidden.view(-1, d_mlp), block.mlp_out)
        return after

    def _attend(self, q: Tensor, kv: Tensor) -> Tensor:
        """q (rows, Tq, H, D), kv (rows, Tk, 2, H, D) -> z (rows, Tq, H, D)."""
        row = torch.arange(len(q), device=q.device)
        nothing = torch.zeros(q.shape[:3], dtype=torch.bool, device=q.device)
        out = self._space.buffer("z", q.shape)
        return patched_attention(q, *kv.unbind(2), q, row, row, nothing, impl=self._impl, out=out)

    def _splice(self, name: str, own: Tensor, at: Span, base: Tensor, window: Span) -> Tensor:
        """The positions of `window`: those in `at` from own (N, B, at, ...), the others from base (B, E, ...)."""
        if at == window:
            return own
        start, stop = window
        low, high = (min(max(position, start), stop) for position in at)
        out = self._space.buffer(name, (*own.shape[:2], stop - start, *own.shape[3:]))
        out[:, :, : low - start] = base[:, start:low]
        out[:, :, low - start : high - start] = own[:, :, low - at[0] : high - at[0]]
        out[:, :, high - start :] = base[:, high:stop]
        return out


def _gather(x: Tensor, positions: Tensor) -> Tensor:
    """x (N, B or 1, W, ...) at each pair's own positions (B, R): (N, B, R, ...)."""
    if positions.shape[1] == x.shape[2] and bool((positions == torch.arange(x.shape[2], device=x.device)).all()):
        return x
    pair = torch.arange(len(positions), device=x.device)[:, None]
    return x.expand(-1, len(positions), *x.shape[2:])[:, pair, positions]


def _parts(count: int, rows_each: int, rows: int) -> Iterator[slice]:
    """Slices of `count` things of `rows_each` rows, as many at a time as make `rows`, at least one."""
    at_once = max(1, rows // rows_each)
    return (slice(first, first + at_once) for first in range(0, count, at_once))
