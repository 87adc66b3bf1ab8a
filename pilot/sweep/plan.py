"""Plans a sweep: interventions as a trie by layer, so that what they share is computed once.

A head patch leaves every layer below its own as it was. Two interventions that patch the same in layers 0 to l are one
path of the trie down to there; they part in the first layer where they differ. A node is the residual stream that
enters a layer, a branch what is patched in that layer. Positions before the first change are as in the unpatched run,
by causality.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pilot.interventions import Intervention
from pilot.models.transformer import ModelConfig

Span = tuple[int, int]  # half-open range of positions
LayerPatch = tuple[int, int, int]  # head, start, stop


@dataclass(slots=True)
class Branch:
    """One way to patch a node's layer.

    patches       (head, start, stop) each, sorted, ranges of one head apart; () leaves the layer as it is
    changed       positions where the residual stream behind the layer is not the unpatched run's; None: nowhere, or
                  behind the last layer
    node          the node that it leads to; None behind the last layer
    """

    patches: tuple[LayerPatch, ...]
    changed: Span | None
    node: Node | None = None


@dataclass(slots=True)
class Node:
    """The residual stream that enters `layer`, with `changed` as in Branch. Nodes of one `shape` fit into one batch.

    Those of the last layer that have one shape share their branches, and `interventions` are the numbers of those that
    end in each.
    """

    layer: int
    changed: Span | None
    branches: list[Branch]
    shape: int
    interventions: np.ndarray | None = None


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
        return max(max(Counter(branch.changed for branch in node.branches).values()) for node in self.nodes())

    def window(self, node: Node) -> Span | None:
        """The positions behind attention at which any of the node's branches must be computed; None: nowhere."""
        if node.branches[0].node is None:
            return self.reads[0], self.end
        spans = [branch.changed for branch in node.branches if branch.changed]
        return (min(span[0] for span in spans), max(span[1] for span in spans)) if spans else None

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents first."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            stack += [branch.node for branch in node.branches if branch.node is not None]


class Planner:
    """Makes plans for one list of interventions: they depend on what is read and on where pairs begin to differ."""

    def __init__(self, interventions: Sequence[Intervention], config: ModelConfig):
        self._n_layers = config.n_layers
        numbers: dict[Intervention, int] = {}
        self._paths = np.empty((len(interventions), config.n_layers), dtype=np.int64)
        for i, intervention in enumerate(interventions):
            by_layer: list[Intervention] = [()] * config.n_layers
            for patch in intervention:
                by_layer[patch.layer] += (patch,)
            self._paths[i] = [numbers.setdefault(patches, len(numbers)) for patches in by_layer]
        self._patches = list(numbers)

    def plan(self, first: int, reads: tuple[int, ...]) -> Plan:
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
        return Plan(builder.node(0, None, 0, len(paths)), reads, duplicates)


class _Builder:
    """Makes the trie of sorted, distinct paths (n, n_layers): numbers of `known`, layer by layer."""

    def __init__(self, known: list[tuple[LayerPatch, ...]], paths: np.ndarray, intervention: np.ndarray, end: int):
        self._known, self._paths, self._intervention, self._end = known, paths, intervention, end
        self._shapes: dict[tuple, int] = {}
        self._ends: dict[int, list[Branch]] = {}  # branches of the last layer, by shape

    def node(self, layer: int, changed: Span | None, first: int, stop: int) -> Node:
        """The node of paths first..stop-1, which are alike in the layers before `layer`."""
        column = self._paths[first:stop, layer]
        if layer + 1 == self._paths.shape[1]:
            shape = self._shape(layer, changed, column)
            if shape not in self._ends:
                self._ends[shape] = [Branch(self._known[number], None) for number in column]
            return Node(layer, changed, self._ends[shape], shape, self._intervention[first:stop])
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        bounds = [*(first + starts).tolist(), stop]
        branches = []
        for number, low, high in zip(column[starts], bounds[:-1], bounds[1:], strict=True):
            patches = self._known[number]
            after = _changed(changed, patches, self._end)
            branches.append(Branch(patches, after, self.node(layer + 1, after, low, high)))
        return Node(layer, changed, branches, self._shape(layer, changed, column[starts]))

    def _shape(self, layer: int, changed: Span | None, patches: np.ndarray) -> int:
        return self._shapes.setdefault((layer, changed, patches.tobytes()), len(self._shapes))


def _reduce(patches: Intervention, first: int, end: int) -> tuple[LayerPatch, ...]:
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


def _narrow(patches: tuple[LayerPatch, ...], reads: tuple[int, ...]) -> tuple[LayerPatch, ...]:
    """The last layer's patches down to the positions that are read: the others reach no logit."""
    narrowed = []
    for head, start, stop in patches:
        seen = [position for position in reads if start <= position < stop]
        if seen:
            narrowed.append((head, seen[0], seen[-1] + 1))
    return tuple(narrowed)


def _changed(before: Span | None, patches: tuple[LayerPatch, ...], end: int) -> Span | None:
    if not patches:
        return before and (before[0], end)
    start = min(start for _, start, _ in patches)
    # A patch alone changes its own positions; attention carries a change to all positions behind it.
    return (min(start, before[0]), end) if before else (start, max(stop for _, _, stop in patches))
