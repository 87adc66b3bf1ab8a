"""Plans a sweep: interventions as a trie by layer, so that what they share is computed once.

A head patch leaves every layer below its own as it was. Two interventions that patch the same in layers 0 to l are one
path of the trie down to there; they part in the first layer where they differ. A node is the residual stream that
enters a layer, a branch what is patched in that layer. Positions before the first change are as in the unpatched run,
by causality.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pilot.interventions import HeadSubsets, Intervention
from pilot.sweep.inputs import Interventions

Span = tuple[int, int]  # half-open range of positions
LayerPatch = tuple[int, int, int]  # head, start, stop
LayerPatches = tuple[LayerPatch, ...]  # sorted, ranges of one head apart; () leaves the layer as it is


@dataclass(slots=True)
class Branch:
    """One way to patch a node's layer that changes the residual stream behind it.

    changed   positions where that stream is not the unpatched run's
    node      the node that it leads to
    """

    patches: LayerPatches
    changed: Span
    node: Node


@dataclass(slots=True)
class InnerNode:
    """The residual stream that enters `layer`, which is not the last.

    changed     positions where it is not the unpatched run's; None: nowhere
    shape       nodes of one shape have the same layer, changes and patches, and fit into one batch
    unchanged   the node behind the layer where that is left as it is too; None: no intervention goes there
    """

    layer: int
    changed: Span | None
    shape: int
    unchanged: Node | None
    branches: list[Branch]


@dataclass(slots=True)
class LastNode:
    """The residual stream that enters the last layer; `changed` and `shape` as in InnerNode.

    patches         the ways to patch the layer, shared by the nodes of one shape
    interventions   number of the intervention that ends in each
    """

    layer: int
    changed: Span | None
    shape: int
    patches: list[LayerPatches]
    interventions: np.ndarray


Node = InnerNode | LastNode


@dataclass(frozen=True)
class Plan:
    """A trie of interventions.

    reads       positions whose logits are wanted, sorted; nothing behind them is computed
    duplicates  (number of an intervention, number of one with the same result that is in the trie)
    """

    root: Node
    reads: tuple[int, ...]
    duplicates: list[tuple[int, int]]

    @property
    def end(self) -> int:
        return self.reads[-1] + 1

    @property
    def fan_out(self) -> int:
        """The most branches of one node that change the same positions, and so go into one batch."""
        return max(map(_widest, self.nodes()))

    def window(self, node: Node) -> Span | None:
        """The positions behind attention at which any of the node's branches must be computed; None: nowhere."""
        if isinstance(node, LastNode):
            return self.reads[0], self.end
        if not node.branches:
            return None
        return min(branch.changed[0] for branch in node.branches), max(branch.changed[1] for branch in node.branches)

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents first."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            if isinstance(node, InnerNode):
                stack += [branch.node for branch in node.branches]
                stack += [node.unchanged] if node.unchanged is not None else []


def _widest(node: Node) -> int:
    if isinstance(node, LastNode):
        return len(node.patches)
    return max(Counter(branch.changed for branch in node.branches).values(), default=1)


class Planner:
    """Makes plans for some interventions, and keeps them: they depend on what is read and where pairs first differ."""

    def __init__(self, interventions: Interventions, n_layers: int):
        if isinstance(interventions, HeadSubsets):
            self._patches, self._paths = _subsets_by_layer(interventions, n_layers)
        else:
            self._patches, self._paths = _patches_by_layer(interventions, n_layers)
        self.plan = lru_cache(maxsize=8)(self._plan)

    def _plan(self, first: int, reads: tuple[int, ...]) -> Plan:
        """The trie for pairs that agree at all positions before `first`: nothing changes there."""
        inner = [_reduce(patches, first, reads[-1] + 1) for patches in self._patches]
        at_last = [_narrow(patches, reads) for patches in inner]
        # Prefixes are numbered first: sums of patches build on each other.
        known = sorted({*inner, *at_last})
        number = {patches: i for i, patches in enumerate(known)}
        paths = np.array([number[patches] for patches in inner])[self._paths]
        paths[:, -1] = np.array([number[patches] for patches in at_last])[self._paths[:, -1]]
        paths, intervention, path_of = np.unique(paths, axis=0, return_index=True, return_inverse=True)
        same = intervention[path_of.ravel()]
        duplicates = [(i, int(same[i])) for i in np.flatnonzero(same != np.arange(len(same))).tolist()]
        builder = _Builder(known, paths, intervention, reads[-1] + 1)
        with _collector_paused():
            return Plan(builder.node(0, 0, None), reads, duplicates)


def _patches_by_layer(interventions: Sequence[Intervention], n_layers: int) -> tuple[list[Intervention], np.ndarray]:
    """The distinct patches of single layers, and which of them each intervention has in each layer, (n, n_layers)."""
    numbers: dict[Intervention, int] = {}
    paths = np.empty((len(interventions), n_layers), dtype=np.int64)
    for i, intervention in enumerate(interventions):
        by_layer: list[Intervention] = [()] * n_layers
        for patch in intervention:
            by_layer[patch.layer] += (patch,)
        paths[i] = [numbers.setdefault(patches, len(numbers)) for patches in by_layer]
    return list(numbers), paths


def _subsets_by_layer(subsets: HeadSubsets, n_layers: int) -> tuple[list[Intervention], np.ndarray]:
    """`_patches_by_layer` of all subsets at once: a layer's patches are the bits of the heads that lie in it."""
    patches: list[Intervention] = []
    masks = np.arange(len(subsets))
    paths = np.empty((len(subsets), n_layers), dtype=np.int64)
    for layer in range(n_layers):
        inside = [j for j, patch in enumerate(subsets.heads) if patch.layer == layer]
        paths[:, layer] = len(patches)
        for bit, j in enumerate(inside):
            paths[:, layer] += (masks >> j & 1) << bit
        patches += HeadSubsets(tuple(subsets.heads[j] for j in inside))
    return patches, paths


class _Builder:
    """Makes the trie of sorted, distinct paths (n, n_layers): numbers of `known`, layer by layer.

    Paths that are alike down to a layer stand together, so the branches of a layer are numbered as their first paths
    come. Branch i of a layer leads to node i of the next.
    """

    def __init__(self, known: list[LayerPatches], paths: np.ndarray, intervention: np.ndarray, end: int):
        self._known, self._intervention, self._end = known, intervention, end
        parts = np.diff(paths, axis=0, prepend=-1) != 0
        opens = np.logical_or.accumulate(parts, axis=1)  # (n, n_layers): whether a path is the first of a branch
        starts = [np.flatnonzero(of_layer) for of_layer in opens.T]
        self._patches: list[list[int]] = [paths[at, layer].tolist() for layer, at in enumerate(starts)]
        # For each layer the first branch of every node, and the end of the last one's.
        self._branches: list[list[int]] = [
            [*np.searchsorted(at, nodes).tolist(), len(at)]
            for at, nodes in zip(starts, [np.zeros(1, dtype=np.int64), *starts], strict=False)
        ]
        self._shapes: dict[tuple[int, Span | None, tuple[int, ...]], int] = {}
        self._last_patches: dict[int, list[LayerPatches]] = {}  # by shape

    def node(self, layer: int, index: int, changed: Span | None) -> Node:
        """Node number `index` of `layer`, with all behind it."""
        first, stop = self._branches[layer][index : index + 2]
        numbers = self._patches[layer][first:stop]
        shape = self._shapes.setdefault((layer, changed, tuple(numbers)), len(self._shapes))
        if layer + 1 == len(self._patches):
            if shape not in self._last_patches:
                self._last_patches[shape] = [self._known[number] for number in numbers]
            return LastNode(layer, changed, shape, self._last_patches[shape], self._intervention[first:stop])
        node = InnerNode(layer, changed, shape, None, [])
        for branch, number in enumerate(numbers, first):
            patches = self._known[number]
            after = _changed(changed, patches, self._end)
            behind = self.node(layer + 1, branch, after)
            if after is None:
                node.unchanged = behind
            else:
                node.branches.append(Branch(patches, after, behind))
        return node


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Without Python's garbage collector, which would search a growing trie for garbage again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _reduce(patches: Intervention, first: int, end: int) -> LayerPatches:
    """One layer's patches without the positions where they change nothing that is read, touching ranges joined."""
    reduced: list[LayerPatch] = []
    for patch in sorted(patches, key=lambda patch: (patch.head, patch.start)):
        start, stop = max(patch.start, first), end if patch.stop is None else min(patch.stop, end)
        if start >= stop:
            continue
        if reduced and reduced[-1][0] == patch.head and start <= reduced[-1][2]:
            _, start, before = reduced.pop()
            stop = max(stop, before)
        reduced.append((patch.head, start, stop))
    return tuple(reduced)


def _narrow(patches: LayerPatches, reads: tuple[int, ...]) -> LayerPatches:
    """The last layer's patches down to the positions that are read: the others reach no logit."""
    narrowed: list[LayerPatch] = []
    for head, start, stop in patches:
        seen = [position for position in reads if start <= position < stop]
        if seen:
            narrowed.append((head, seen[0], seen[-1] + 1))
    return tuple(narrowed)


def _changed(before: Span | None, patches: LayerPatches, end: int) -> Span | None:
    """Where the residual stream behind a layer is changed, if it was changed at `before` when it entered."""
    if not patches:
        return before and (before[0], end)
    start = min(start for _, start, _ in patches)
    # A patch alone changes its own positions; attention carries a change to all positions behind it.
    return (min(start, before[0]), end) if before else (start, max(stop for _, _, stop in patches))
