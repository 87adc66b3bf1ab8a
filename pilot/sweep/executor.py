"""Walks a plan: evaluates the trie of interventions on one chunk of pairs, depth first.

What a patched head adds to the state of a row (pilot.sweep.lowering) is one product for each node, however many
branches patch that head. So a branch costs additions and an activation function (pilot.ops.branched_hidden), and one
matrix product.

Shapes: B pairs of the chunk, E positions up to the last one that is read, R read positions, N nodes and C branches of
each in one batch, W positions of a window, K heads that the branches patch, V vocabulary, d d_model, m d_mlp, H heads,
D head_dim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pilot.ops.branched_hidden import branched_hidden
from pilot.ops.norms import normalised
from pilot.sweep.buffers import Workspace
from pilot.sweep.layer_attention import Attention, LayerRun, absorbs
from pilot.sweep.layout import membership
from pilot.sweep.lowering import FoldedModel
from pilot.sweep.plan import Node, Plan, Span

# A batch of nodes makes so many times `rows` rows of branches: Python takes a millisecond for the smallest batch.
PARTS_OF_A_BATCH = 16

Emit = Callable[[np.ndarray, Tensor], None]  # numbers of n interventions, and their logits (n, B, R, V)


@dataclass(frozen=True)
class Group:
    """Branches of a node that change the same positions, and so are computed together.

    at        those positions, counted in the node's window; at the last layer the R positions that are read
    branches  their places in the node's list
    member    which heads' terms each adds where, (C, B, positions, K) bool
    """

    at: slice
    branches: list[int]
    member: Tensor


@dataclass(frozen=True)
class Layout:
    """What nodes of one shape have in common.

    window   the positions behind attention where they are computed
    heads    those that some branch patches
    read     (B, R), at the last layer: where in the window each pair is read; None: the window is what is read
    """

    window: Span
    heads: list[int]
    groups: list[Group]
    read: Tensor | None

    @property
    def fan_out(self) -> int:
        return max(len(group.branches) for group in self.groups)


@dataclass(frozen=True)
class Chunk:
    """Some pairs, and what is done with them.

    donor   for each layer z, (B or 1, E, H, D); in the last from the first position on that is read
    read    (B, R) int64, on the CPU
    """

    plan: Plan
    recipient: list[LayerRun]
    donor: Sequence[Tensor]
    read: Tensor
    emit: Emit
    _layouts: dict[int, Layout | None] = field(default_factory=dict)

    def layout(self, node: Node) -> Layout | None:
        """None: nothing is to be computed in the node's layer."""
        if node.shape not in self._layouts:
            self._layouts[node.shape] = self._lay_out(node)
        return self._layouts[node.shape]

    def _lay_out(self, node: Node) -> Layout | None:
        window = self.plan.window(node)
        if window is None:
            return None
        inside = torch.arange(*window).expand(len(self.read), -1)  # (B, W)
        position = inside if node.interventions is None else self.read
        read = None if position.equal(inside) else (position - window[0]).to(self.recipient[-1].x.device)
        by_span: dict[Span, list[int]] = defaultdict(list)
        if node.interventions is not None:
            by_span[0, position.shape[1]] += range(len(node.branches))
        for i, branch in enumerate(node.branches):
            if branch.changed is not None:
                by_span[branch.changed[0] - window[0], branch.changed[1] - window[0]].append(i)
        heads = sorted({head for branch in node.branches for head, _, _ in branch.patches})
        groups = []
        for span, branches in by_span.items():
            patches = [node.branches[i].patches for i in branches]
            groups.append(Group(slice(*span), branches, membership(patches, heads, position[:, slice(*span)])))
        return Layout(window, heads, groups, read)


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
        self._attention = Attention(weights, impl, self._space)

    def unpatched(self, name: str, ids: Tensor, plan: Plan) -> list[LayerRun]:
        """What every layer does for ids (B, E) int64; good until the next call with this name."""
        x = self._weights.tokens[ids] + self._weights.positions[: ids.shape[1]]
        runs: list[LayerRun] = []
        for layer, block in enumerate(self._weights.blocks):
            if layer == self._last:
                absorbed = absorbs(plan, x.shape[-1], block.n_heads)
                runs.append(self._attention.unpatched(name, layer, x, plan.reads[0], absorbed))
            else:
                runs.append(self._attention.unpatched(name, layer, x, 0, absorbed=False))
                state = self._state(layer, x[None], runs[-1].z[None])  # one node, one branch, no terms
                nothing = torch.zeros(1, *x.shape[:2], 0, dtype=torch.bool)
                after = self._mlp(layer, state, state.new_empty(0, *state.shape), nothing)[0, 0]
                x = self._space.buffer(f"{name} {layer} after", after.shape).copy_(after)
        return runs

    def walk(self, chunk: Chunk) -> None:
        """Evaluate every intervention of the chunk's plan on its pairs, and emit the logits batch by batch."""
        self._visit(chunk, [chunk.plan.root], None)

    def _visit(self, chunk: Chunk, nodes: list[Node], x: Tensor | None) -> None:
        """Evaluate nodes of one shape, and all behind them. x (N, B, changed, d); None: the unpatched run's node."""
        first = nodes[0].branches[0]
        if first.node is not None and first.changed is None:
            self._visit(chunk, [first.node], None)  # nothing to compute here
        layout = chunk.layout(nodes[0])
        if layout is None:
            return
        rows_each = len(chunk.read) * (layout.window[1] - layout.window[0]) * layout.fan_out
        for part in _parts(len(nodes), rows_each, PARTS_OF_A_BATCH * self._rows):
            self._evaluate(chunk, layout, nodes[part], None if x is None else x[part])

    def _evaluate(self, chunk: Chunk, layout: Layout, nodes: list[Node], x: Tensor | None) -> None:
        """Evaluate one batch of nodes: attention at the positions of the window, then what each branch makes of it."""
        layer, window = nodes[0].layer, layout.window
        run = chunk.recipient[layer]
        if x is None:
            x, z = run.x[None, :, slice(*window)], run.z[None, :, run.queried(window)]
        else:
            x, z = self._attention.patched(layer, x, nodes[0].changed, run, window)  # (N, B, W, d), (N, B, W, H, D)
        donor = chunk.donor[layer][None, :, run.queried(window)]  # (1, B or 1, W, H, D)
        if layout.read is not None:  # from here on W is R
            x, z, donor = (_gather(tensor, layout.read) for tensor in (x, z, donor))
        state = self._state(layer, x, z)  # (N, B, W, d + m), as if nothing were patched in this layer
        terms = self._terms(layer, layout.heads, donor, z)  # (K, N, B, W, d + m)
        for group in layout.groups:
            rows_each = state[:, :, group.at].shape[:3].numel()
            for part in _parts(len(group.branches), rows_each, PARTS_OF_A_BATCH * self._rows):
                after = self._mlp(layer, state[:, :, group.at], terms[:, :, :, group.at], group.member[part])
                after = after.flatten(0, 1)
                if layer == self._last:
                    self._emit(chunk, np.concatenate([node.interventions[part] for node in nodes]), after)
                else:
                    behind = [node.branches[i].node for node in nodes for i in group.branches[part]]
                    self._visit_all(chunk, behind, after)

    def _emit(self, chunk: Chunk, interventions: np.ndarray, x: Tensor) -> None:
        """The logits of interventions (n,), from what comes out of the last layer, x (n, B, R, d)."""
        normed = normalised(x, self._weights.eps, out=self._space.buffer("normed", x.shape))
        logits = self._space.matmul("logits", normed, self._weights.unembed, self._weights.unembed_bias)
        chunk.emit(interventions, logits)

    def _visit_all(self, chunk: Chunk, nodes: list[Node], x: Tensor) -> None:
        """Visit nodes of several shapes; x (N, B, changed, d)."""
        by_shape = defaultdict(list)
        for i, node in enumerate(nodes):
            by_shape[node.shape].append(i)
        for members in by_shape.values():
            alike = len(members) == len(nodes)
            self._visit(chunk, nodes if alike else [nodes[i] for i in members], x if alike else x[members])

    def _state(self, layer: int, x: Tensor, z: Tensor) -> Tensor:
        """The state of rows that come out of attention unpatched: x (..., d), z (..., H, D) -> (..., d + m)."""
        block = self._weights.blocks[layer]
        d_model = x.shape[-1]
        state = self._space.buffer(f"state {layer}", (*x.shape[:-1], block.head_state.shape[-1]))
        torch.add(x, block.out_bias, out=state[..., :d_model])
        rows = state.view(-1, state.shape[-1])
        rows[:, :d_model].addmm_(z.reshape(-1, d_model), block.out)
        torch.mm(rows[:, :d_model], block.mlp_in, out=rows[:, d_model:])
        return state

    def _terms(self, layer: int, heads: list[int], donor: Tensor, z: Tensor) -> Tensor:
        """What the donor's z adds to the state, head by head: z (N, B, W, H, D) -> (K, N, B, W, d + m)."""
        head_state = self._weights.blocks[layer].head_state
        difference = self._space.buffer("difference", (*z.shape[:3], z.shape[-1]))
        terms = self._space.buffer(f"terms {layer}", (len(heads), *z.shape[:3], head_state.shape[-1]))
        for head, term in zip(heads, terms, strict=True):
            torch.sub(donor[..., head, :], z[..., head, :], out=difference)
            torch.mm(difference.view(-1, z.shape[-1]), head_state[head], out=term.view(-1, term.shape[-1]))
        return terms

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


def _gather(x: Tensor, positions: Tensor) -> Tensor:
    """x (N, B or 1, W, ...) at each pair's own positions (B, R): (N, B, R, ...)."""
    pair = torch.arange(len(positions), device=x.device)[:, None]
    return x.expand(-1, len(positions), *x.shape[2:])[:, pair, positions]


def _parts(count: int, rows_each: int, rows: int) -> Iterator[slice]:
    """Slices of `count` things of `rows_each` rows, as many at a time as make `rows`, at least one."""
    at_once = max(1, rows // rows_each)
    return (slice(first, first + at_once) for first in range(0, count, at_once))
