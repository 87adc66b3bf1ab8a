"""How the branches of a node lie in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pilot.sweep.plan import LayerPatch


def membership(branches: Sequence[Sequence[LayerPatch]], heads: Sequence[int], position: Tensor) -> Tensor:
    """Which of `heads` each branch patches at each `position` (B, W): (C, B, W, K) bool, on the CPU."""
    column = {head: k for k, head in enumerate(heads)}
    patches = [(c, column[head], start, stop) for c, patches in enumerate(branches) for head, start, stop in patches]
    branch, head, start, stop = torch.tensor(patches, dtype=torch.int64).view(-1, 4, 1, 1).unbind(1)
    inside = (position >= start) & (position < stop)  # (patches, B, W)
    member = torch.zeros(len(branches), len(heads), *position.shape, dtype=torch.bool)
    member.index_put_((branch.flatten(), head.flatten()), inside, accumulate=True)  # a head may have several patches
    return member.movedim(1, -1)
