"""Executes a plan: evaluates the trie of interventions on one chunk of pairs, depth first.

What a patched head adds is one product for each node, however many branches patch that head (pilot.sweep.layers). So a
branch costs additions, an activation function and the MLP's second matrix product.

Shapes: B pairs of the chunk, E positions up to the last one that is read, R read positions, N nodes and C branches of
each in one batch, W positions of a window, K heads that the branches patch, V vocabulary, d d_model, H heads, D
head_dim.
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
from pilot.sweep.buffers import Buffers, RunBuffers
from pilot.sweep.layer_attention import LayerAttention, LayerRun, absorbs
from pilot.sweep.layers import Layer, layer_of
from pilot.sweep.layout import Layout, Layouts
from pilot.sweep.operators import Operators
from pilot.sweep.plan import InnerNode, LastNode, Node, Plan
from pilot.sweep.program import Program
from pilot.sweep.unembedding import Unembedding

# A batch of nodes has this many times `rows` rows of branches. Fewer leave Python's share of the time larger, more need
# more memory.
PARTS_OF_A_BATCH = 16

MOST_LOGITS = 2**22  # at a time: a vocabulary of 50,000 makes 200 kB of each row

Emit = Callable[[np.ndarray, Tensor], None]  # numbers of n interventions, and their logits (n, B, R, V)


@dataclass(frozen=True)
class ReadyProgram:
    """A program with what the executor works out from its weights once."""

    program: Program
    attention: Sequence[LayerAttention]
    layers: Sequence[Layer]
    operators: Operators

    @classmethod
    def of(cls, program: Program, operators: Operators) -> ReadyProgram:
        return cls(
            program,
            [LayerAttention(layer.attention, operators) for layer in program.layers],
            [layer_of(layer, operators) for layer in program.layers],
            operators,
        )


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
    unembedding: Unembedding
    emit: Emit


class Executor:
    """Evaluates a chunk at a time, in buffers that are made once.

    rows   rows of the residual stream (branch, pair, position) in a sixteenth of a batch
    """

    def __init__(self, model: ReadyProgram, buffers: Buffers, rows: int):
        self._model, self._buffers, self._rows = model, buffers, rows

    def unpatched(self, ids: Tensor, plan: Plan, buffers: Sequence[RunBuffers]) -> list[LayerRun]:
        """What every layer does for ids (B, E) int64; it stands in `buffers`."""
        scratch = self._buffers.scratch
        x = self._model.program.embed(ids)
        runs: list[LayerRun] = []
        last = len(self._model.layers) - 1
        for layer, (attention, rest) in enumerate(zip(self._model.attention, self._model.layers, strict=True)):
            if layer == last:
                absorbed = absorbs(self._model.program.layers[layer].attention, plan)
                runs.append(attention.unpatched(x, plan.reads[0], absorbed, buffers[layer], scratch))
                break
            runs.append(attention.unpatched(x, 0, False, buffers[layer], scratch))
            # One node, one branch, no terms.
            state = rest.state(x[None], runs[-1].z[None], self._buffers.layers[layer], scratch)
            nothing = torch.zeros(1, *x.shape[:2], 0, dtype=torch.bool)
            no_terms = rest.terms([], x, runs[-1].z[None], self._buffers.layers[layer], scratch)
            x = rest.after(state, no_terms, nothing, buffers[layer].after, scratch)[0, 0]
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
        layer, window, scratch = nodes[0].layer, layout.window, self._buffers.scratch
        rest, buffers = self._model.layers[layer], self._buffers.layers[layer]
        run = chunk.recipient[layer]
        if x is None:
            x, z = run.x[None, :, slice(*window)], run.z[None, :, run.queried(window)]
        else:
            changed = nodes[0].changed
            assert changed is not None
            x, z = self._model.attention[layer].patched(x, changed, run, window, scratch)
        donor = chunk.donor[layer][None, :, run.queried(window)]  # (1, B or 1, W, H, D)
        if layout.read is not None:  # from here on W is R
            x, z, donor = (_gather(tensor, layout.read) for tensor in (x, z, donor))
        state = rest.state(x, z, buffers, scratch)  # as if nothing were patched in this layer
        terms = rest.terms(layout.heads, donor, z, buffers, scratch)
        for group in layout.groups:
            rows_each = state[:, :, group.at].shape[:3].numel()
            for part in _parts(len(group.branches), rows_each, PARTS_OF_A_BATCH * self._rows):
                member = group.member[part]
                after = rest.after(state[:, :, group.at], terms[:, :, :, group.at], member, buffers.after, scratch)
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
        program, scratch = self._model.program, self._buffers.scratch
        for part in _parts(len(interventions), x.shape[1:3].numel() * chunk.unembedding.width, MOST_LOGITS):
            normed = normalised(x[part], program.eps, out=scratch.normed(*x[part].shape))
            chunk.emit(interventions[part], chunk.unembedding(normed, self._model.operators, scratch.logits))

    def _visit_all(self, chunk: Chunk, nodes: Sequence[Node], x: Tensor) -> None:
        """Visit nodes of several shapes; x (N, B, changed, d)."""
        by_shape: dict[int, list[int]] = defaultdict(list)
        for i, node in enumerate(nodes):
            by_shape[node.shape].append(i)
        for members in by_shape.values():
            alike = len(members) == len(nodes)
            self._visit(chunk, nodes if alike else [nodes[i] for i in members], x if alike else x[members])


def _gather(x: Tensor, positions: Tensor) -> Tensor:
    """x (N, B or 1, W, ...) at each pair's own positions (B, R): (N, B, R, ...)."""
    pair = torch.arange(len(positions), device=x.device)[:, None]
    return x.expand(-1, len(positions), *x.shape[2:])[:, pair, positions]


def _parts(count: int, rows_each: int, rows: int) -> Iterator[slice]:
    """Slices of `count` things of `rows_each` rows, as many at a time as make `rows`, at least one."""
    at_once = max(1, rows // rows_each)
    return (slice(first, first + at_once) for first in range(0, count, at_once))
