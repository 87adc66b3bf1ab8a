"""Buffers that are made once and used again: a large fresh one costs more in page faults than the arithmetic in it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Buffers:
    """Buffers of the dtype and device of `like`; each grows to the largest shape it was asked for."""

    def __init__(self, like: Tensor):
        self._like = like
        self._memory: dict[str, Tensor] = {}
        self._views: dict[str, dict[tuple[int, ...], Tensor]] = {}  # kept: to make one costs more than to find it

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """An uninitialised contiguous tensor that is good until the next call with this name."""
        views = self._views.setdefault(name, {})
        if shape not in views:
            size = math.prod(shape)
            if name not in self._memory or self._memory[name].numel() < size:
                self._memory[name] = self._like.new_empty(size)
                views.clear()
            views[shape] = self._memory[name][:size].view(shape)
        return views[shape]

    def matmul(self, name: str, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., i) @ matrix (i, j) + bias (j,), in the buffer `name`."""
        out = self.get(name, (*x.shape[:-1], matrix.shape[1]))
        rows, out_rows = x.reshape(-1, x.shape[-1]), out.view(-1, matrix.shape[1])
        if bias is None:
            torch.mm(rows, matrix, out=out_rows)
        else:
            torch.addmm(bias, rows, matrix, out=out_rows)
        return out

    def matmul_each(self, name: str, x: Tensor, matrices: Tensor) -> Tensor:
        """x (..., n, i) @ matrices (n, i, j), one for each of n, in the buffer `name`: (..., n, j)."""
        out = self.get(name, (*x.shape[:-1], matrices.shape[-1]))
        rows, out_rows = x.reshape(-1, *x.shape[-2:]), out.view(-1, *out.shape[-2:])
        for i, matrix in enumerate(matrices):
            torch.mm(rows[:, i], matrix, out=out_rows[:, i])
        return out
