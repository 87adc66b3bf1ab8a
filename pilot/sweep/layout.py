"""How the branches of a node lie in one batch.

Shapes: B pairs of a chunk, R read positions, C branches, W positions of a window, K heads that the branches patch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pilot.sweep.plan import LastNode, LayerPatches, Node, Plan, Span


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


class Layouts:
    """The layouts of a plan's nodes, made when they are first asked for.

    read     (B, R) int64, on the CPU
    device   where the pairs are computed
    """

    def __init__(self, plan: Plan, read: Tensor, device: torch.device):
        self._plan, self._read, self._device = plan, read, device
        self._by_shape: dict[int, Layout | None] = {}

    def of(self, node: Node) -> Layout | None:
        """None: nothing is to be computed in the node's layer."""
        if node.shape not in self._by_shape:
            window = self._plan.window(node)
            self._by_shape[node.shape] = None if window is None else self._lay_out(node, window)
        return self._by_shape[node.shape]

    def _lay_out(self, node: Node, window: Span) -> Layout:
        inside = torch.arange(*window).expand(len(self._read), -1)  # (B, W)
        by_span: dict[Span, list[int]] = defaultdict(list)
        read = None
        if isinstance(node, LastNode):
            position, patches = self._read, node.patches
            if not position.equal(inside):
                read = (position - window[0]).to(self._device)
            by_span[0, position.shape[1]] += range(len(patches))
        else:
            position, patches = inside, [branch.patches for branch in node.branches]
            for i, branch in enumerate(node.branches):
                by_span[branch.changed[0] - window[0], branch.changed[1] - window[0]].append(i)
        heads = sorted({head for of_branch in patches for head, _, _ in of_branch})
        groups = []
        for span, branches in by_span.items():
            member = membership([patches[i] for i in branches], heads, position[:, slice(*span)])
            groups.append(Group(slice(*span), branches, member))
        return Layout(window, heads, groups, read)


def membership(branches: Sequence[LayerPatches], heads: Sequence[int], position: Tensor) -> Tensor:
    """Which of `heads` each branch patches at each `position` (B, W): (C, B, W, K) bool, on the CPU."""
    column = {head: k for k, head in enumerate(heads)}
    patches = [(c, column[head], start, stop) for c, patches in enumerate(branches) for head, start, stop in patches]
    branch, head, start, stop = torch.tensor(patches, dtype=torch.int64).view(-1, 4, 1, 1).unbind(1)
    inside = (position >= start) & (position < stop)  # (patches, B, W)
    member = torch.zeros(len(branches), len(heads), *position.shape, dtype=torch.bool)
    member.index_put_((branch.flatten(), head.flatten()), inside, accumulate=True)  # a head may have several patches
    return member.movedim(1, -1)
