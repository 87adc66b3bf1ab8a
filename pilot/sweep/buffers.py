"""Memory that is made once and used again: a large fresh tensor costs more in page faults than the arithmetic in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TypeVar

from torch import Tensor


class Buffer:
    """One tensor of the dtype and device of `like`, uninitialised, as large as the largest shape it was asked for."""

    def __init__(self, like: Tensor):
        self._memory = like.new_empty(0)
        self._views: dict[tuple[int, ...], Tensor] = {}  # kept: to make one costs more than to find it

    def __call__(self, *shape: int) -> Tensor:
        """A contiguous tensor that is good until the next call."""
        if shape not in self._views:
            size = math.prod(shape)
            if self._memory.numel() < size:
                self._memory = self._memory.new_empty(size)
                self._views.clear()
            self._views[shape] = self._memory[:size].view(shape)
        return self._views[shape]


@dataclass
class RunBuffers:
    """What an unpatched run leaves of one layer."""

    kv: Buffer
    q: Buffer
    z: Buffer
    after: Buffer


@dataclass
class LayerBuffers:
    """What is still wanted of a layer while the nodes behind its branches are visited."""

    state: Buffer
    terms: Buffer
    after: Buffer


@dataclass
class Scratch:
    """What is not wanted for longer than a step takes; shared by all layers, and so in cache."""

    normed: Buffer
    kv: Buffer
    q: Buffer
    z: Buffer
    projected: Buffer
    absorbed_z: Buffer
    spliced_kv: Buffer
    spliced_q: Buffer
    spliced_z: Buffer
    spliced_x: Buffer
    difference: Buffer
    written: Buffer
    inputs: Buffer
    logits: Buffer


class Buffers:
    """All buffers of one thread: `unpatched` and `layers`, each by layer, and `scratch`."""

    def __init__(self, like: Tensor, n_layers: int):
        self.unpatched = [_made(RunBuffers, like) for _ in range(n_layers)]
        self.layers = [_made(LayerBuffers, like) for _ in range(n_layers)]
        self.scratch = _made(Scratch, like)


Owner = TypeVar("Owner", RunBuffers, LayerBuffers, Scratch)


def _made(owner: type[Owner], like: Tensor) -> Owner:
    return owner(*(Buffer(like) for _ in fields(owner)))
