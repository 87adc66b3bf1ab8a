"""Named buffers that are made once and used again: a fresh large tensor costs more in page faults than the arithmetic in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Workspace:
    """Buffers of the dtype and device of `like`; each grows to the largest shape it was asked for."""

    def __init__(self, like: Tensor):
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, shape: Sequence[int]) -> Tensor:
        """An uninitialised contiguous tensor that is good until the next call with this name."""
        shape = torch.Size(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < shape.numel():
            buffer = self._buffers[name] = self._like.new_empty(shape.numel())
        return buffer[: shape.numel()].view(shape)

    def matmul(self, name: str, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., i) @ matrix (i, j) + bias (j,), in the buffer `name`."""
        out = self.buffer(name, (*x.shape[:-1], matrix.shape[1]))
        rows, out_rows = x.reshape(-1, x.shape[-1]), out.view(-1, matrix.shape[1])
        if bias is None:
            torch.mm(rows, matrix, out=out_rows)
        else:
            torch.addmm(bias, rows, matrix, out=out_rows)
        return out
