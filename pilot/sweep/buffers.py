"""Memory that is made once and used again: a large fresh tensor costs more in page faults than the arithmetic in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from pilot.sweep.program import Affine


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
    """All buffers of one thread: `donor` and `recipient` of unpatched runs and `layers`, each by layer; `scratch`."""

    def __init__(self, like: Tensor, n_layers: int):
        self.donor = [_made(RunBuffers, like) for _ in range(n_layers)]
        self.recipient = [_made(RunBuffers, like) for _ in range(n_layers)]
        self.layers = [_made(LayerBuffers, like) for _ in range(n_layers)]
        self.scratch = _made(Scratch, like)


Owner = TypeVar("Owner", RunBuffers, LayerBuffers, Scratch)


def _made(owner: type[Owner], like: Tensor) -> Owner:
    return owner(*(Buffer(like) for _ in fields(owner)))


def apply(affine: Affine, x: Tensor, buffer: Buffer) -> Tensor:
    """affine(x), x (..., i) -> (..., j), in a buffer."""
    out = buffer(*x.shape[:-1], affine.weight.shape[1])
    rows, out_rows = x.reshape(-1, x.shape[-1]), out.view(-1, out.shape[-1])
    if affine.bias is None:
        torch.mm(rows, affine.weight, out=out_rows)
    else:
        torch.addmm(affine.bias, rows, affine.weight, out=out_rows)
    return out


def apply_each(matrices: Tensor, x: Tensor, buffer: Buffer) -> Tensor:
    """x (..., n, i) @ matrices (n, i, j), one for each of n, in a buffer: (..., n, j)."""
    out = buffer(*x.shape[:-1], matrices.shape[-1])
    rows, out_rows = x.reshape(-1, *x.shape[-2:]), out.view(-1, *out.shape[-2:])
    for i, matrix in enumerate(matrices):
        torch.mm(rows[:, i], matrix, out=out_rows[:, i])
    return out
