"""Executes a plan: evaluates the trie of interventions on one chunk of pairs, depth first.

What a patched head adds to the state of a row (pilot.sweep.folded) is one product for each node, however many
branches patch that head. So a branch costs additions and an activation function (pilot.ops.branched_hidden), and one
matrix product.

Shapes: B pairs of the chunk, E positions up to the last one that is read, R read positions, N nodes and C branches of
each in one batch, W positions of a window, K heads that the branches patch, V vocabulary, d d_model, m d_mlp, H heads,
D head_dim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from pilot.ops.norms import normalised
from pilot.sweep.buffers import Buffers
from pilot.sweep.folded import FoldedModel
from pilot.sweep.layer_attention import LayerAttention, LayerRun, absorbs
from pilot.sweep.layout import Layout, Layouts
from pilot.sweep.operators import Operators
from pilot.sweep.plan import InnerNode, LastNode, Node, Plan

# A batch of nodes has this many times `rows` rows of branches. Fewer leave Python's share of the time larger, more need
# more memory.
PARTS_OF_A_BATCH = 16

Emit = Callable[[np.ndarray, Tensor], None]  # numbers of n interventions, and their logits (n, B, R, V)


@dataclass(frozen=True)
class Chunk:
    """Some pairs, and what is done with them.

    recipient   what each layer does in the unpatched run
    donor       for each layer z, (B or 1, E, H, D); in the last from the first position on that is read
    """

    plan: Plan
    layouts: Layouts
    recipient: Sequence[LayerRun]
    donor: Sequence[Tensor]
    emit: Emit


class Executor:
    """Evaluates a chunk at a time, in buffers that are made once.

    A buffer that is still wanted when the nodes behind a branch have been visited has the layer in its name; the others
    are shared by all layers, and so stay in cache.

    rows   rows of the residual stream (branch, pair, position) whose hidden units are computed at a time
    """

    def __init__(self, folded: FoldedModel, operators: Operators, buffers: Buffers, rows: int):
        self._folded, self._operators, self._buffers, self._rows = folded, operators, buffers, rows
        self._attention = LayerAttention(folded, operators, buffers)

    def unpatched(self, name: str, ids: Tensor, plan: Plan) -> list[LayerRun]:
        """What every layer does for ids (B, E) int64; good until the next call with this name."""
        x = self._folded.tokens[ids] + self._folded.positions[: ids.shape[1]]
        runs: list[LayerRun] = []
        last = len(self._folded.blocks) - 1
        for layer, weights in enumerate(self._folded.blocks):
            if layer == last:
                absorbed = absorbs(plan, x.shape[-1], weights.n_heads)
                runs.append(self._attention.unpatched(name, layer, x, plan.reads[0], absorbed))
            else:
                runs.append(self._attention.unpatched(name, layer, x, 0, absorbed=False))
                state = self._state(layer, x[None], runs[-1].z[None])  # one node, one branch, no terms
                nothing = torch.zeros(1, *x.shape[:2], 0, dtype=torch.bool)
                after = self._mlp(layer, state, state.new_empty(0, *state.shape), nothing)[0, 0]
                x = self._buffers.get(f"{name} {layer} after", after.shape).copy_(after)
        return runs

    def run(self, chunk: Chunk) -> None:
        """Evaluate every intervention of the chunk's plan on its pairs, and emit the logits batch by batch."""
        self._visit(chunk, [chunk.plan.root], None)

    def _visit(self, chunk: Chunk, nodes: Sequence[Node], x: Tensor | None) -> None:
        """Evaluate nodes of one shape, and all behind them. x (N, B, changed, d); None: the unpatched run's node."""
        node = nodes[0]
        if isinstance(node, InnerNode) and node.unchanged is not None:
            self._visit(chunk, [node.unchanged], None)
        layout = chunk.layouts.of(node)
        if layout is None:
            return
        rows_each = chunk.recipient[0].x.shape[0] * (layout.window[1] - layout.window[0]) * layout.fan_out
        for part in _parts(len(nodes), rows_each, PARTS_OF_A_BATCH * self._rows):
            self._evaluate(chunk, layout, nodes[part], None if x is None else x[part])

    def _evaluate(self, chunk: Chunk, layout: Layout, nodes: Sequence[Node], x: Tensor | None) -> None:
        """Evaluate one batch of nodes: attention at the positions of the window, then what each branch makes of it."""
        layer, window = nodes[0].layer, layout.window
        run = chunk.recipient[layer]
        if x is None:
            x, z = run.x[None, :, slice(*window)], run.z[None, :, run.queried(window)]
        else:
            changed = nodes[0].changed
            assert changed is not None
            x, z = self._attention.patched(layer, x, changed, run, window)  # (N, B, W, d), (N, B, W, H, D)
        donor = chunk.donor[layer][None, :, run.queried(window)]  # (1, B or 1, W, H, D)
        if layout.read is not None:  # from here on W is R
            x, z, donor = (_gather(tensor, layout.read) for tensor in (x, z, donor))
        state = self._state(layer, x, z)  # (N, B, W, d + m), as if nothing were patched in this layer
        terms = self._terms(layer, layout.heads, donor, z)  # (K, N, B, W, d + m)
        for group in layout.groups:
            rows_each = state[:, :, group.at].shape[:3].numel()
            for part in _parts(len(group.branches), rows_each, PARTS_OF_A_BATCH * self._rows):
                after = self._mlp(layer, state[:, :, group.at], terms[:, :, :, group.at], group.member[part])
                self._follow(chunk, nodes, group.branches[part], after.flatten(0, 1))

    def _follow(self, chunk: Chunk, nodes: Sequence[Node], branches: list[int], x: Tensor) -> None:
        """Go where these branches of each node lead; x (N * C, B, W, d) is the residual stream there, node by node."""
        if isinstance(nodes[0], LastNode):  # and so are all: they have one shape
            last = cast(Sequence[LastNode], nodes)
            self._emit(chunk, np.concatenate([node.interventions[branches] for node in last]), x)
        else:
            inner = cast(Sequence[InnerNode], nodes)
            self._visit_all(chunk, [node.branches[i].node for node in inner for i in branches], x)

    def _emit(self, chunk: Chunk, interventions: np.ndarray, x: Tensor) -> None:
        """The logits of interventions (n,), from what comes out of the last layer, x (n, B, R, d)."""
        normed = normalised(x, self._folded.eps, out=self._buffers.get("normed", x.shape))
        logits = self._buffers.matmul("logits", normed, self._folded.unembed, self._folded.unembed_bias)
        chunk.emit(interventions, logits)

    def _visit_all(self, chunk: Chunk, nodes: Sequence[Node], x: Tensor) -> None:
        """Visit nodes of several shapes; x (N, B, changed, d)."""
        by_shape: dict[int, list[int]] = defaultdict(list)
        for i, node in enumerate(nodes):
            by_shape[node.shape].append(i)
        for members in by_shape.values():
            alike = len(members) == len(nodes)
            self._visit(chunk, nodes if alike else [nodes[i] for i in members], x if alike else x[members])

    def _state(self, layer: int, x: Tensor, z: Tensor) -> Tensor:
        """The state of rows that come out of attention unpatched: x (..., d), z (..., H, D) -> (..., d + m)."""
        weights = self._folded.blocks[layer]
        d_model = x.shape[-1]
        state = self._buffers.get(f"state {layer}", (*x.shape[:-1], weights.head_state.shape[-1]))
        torch.add(x, weights.out_bias, out=state[..., :d_model])
        rows = state.view(-1, state.shape[-1])
        rows[:, :d_model].addmm_(z.reshape(-1, d_model), weights.out)
        torch.mm(rows[:, :d_model], weights.mlp_in, out=rows[:, d_model:])
        return state

    def _terms(self, layer: int, heads: list[int], donor: Tensor, z: Tensor) -> Tensor:
        """What the donor's z adds to the state, head by head: z (N, B, W, H, D) -> (K, N, B, W, d + m)."""
        head_state = self._folded.blocks[layer].head_state
        difference = self._buffers.get("difference", (*z.shape[:3], z.shape[-1]))
        terms = self._buffers.get(f"terms {layer}", (len(heads), *z.shape[:3], head_state.shape[-1]))
        for head, term in zip(heads, terms, strict=True):
            torch.sub(donor[..., head, :], z[..., head, :], out=difference)
            torch.mm(difference.view(-1, z.shape[-1]), head_state[head], out=term.view(-1, term.shape[-1]))
        return terms

    def _mlp(self, layer: int, state: Tensor, terms: Tensor, member: Tensor) -> Tensor:
        """The residual stream behind the layer in each branch, (N, C, B, W, d): arguments as for `branched_hidden`."""
        weights = self._folded.blocks[layer]
        d_model, d_mlp = weights.mlp_in.shape
        n, c, b, w = len(state), *member.shape[:3]
        after = self._buffers.get(f"after {layer}", (n, c, b, w, d_model))
        for nodes in _parts(n, c * b * w, self._rows):
            for branches in _parts(c, len(state[nodes]) * b * w, self._rows):  # all of them, or there is one node
                out = after[nodes, branches]
                hidden = self._buffers.get("hidden", (*out.shape[:-1], d_mlp))
                self._operators.branched_hidden(
                    state[nodes],
                    terms[:, nodes],
                    member[branches],
                    weights.mlp_in_bias,
                    weights.mlp_out_bias,
                    weights.eps_mlp,
                    hidden=hidden,
                    after=out,
                )
                out.view(-1, d_model).addmm_(hidden.view(-1, d_mlp), weights.mlp_out)
        return after


def _gather(x: Tensor, positions: Tensor) -> Tensor:
    """x (N, B or 1, W, ...) at each pair's own positions (B, R): (N, B, R, ...)."""
    pair = torch.arange(len(positions), device=x.device)[:, None]
    return x.expand(-1, len(positions), *x.shape[2:])[:, pair, positions]


def _parts(count: int, rows_each: int, rows: int) -> Iterator[slice]:
    """Slices of `count` things of `rows_each` rows, as many at a time as make `rows`, at least one."""
    at_once = max(1, rows // rows_each)
    return (slice(first, first + at_once) for first in range(0, count, at_once))
