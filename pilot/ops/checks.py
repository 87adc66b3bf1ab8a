"""The checks of csrc/patched_attention in Python: the same order, messages and exception types.

They serve the eager twin, and the fake implementation that torch.compile traces with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_HEAD_DIM = 256  # kMaxHeadDim in csrc/patched_attention/patched_attention.h


def check_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    source: Tensor,
    parent: Tensor,
    source_row: Tensor,
    replace: Tensor,
    *,
    scale: float | None = None,
    out: Tensor | None = None,
) -> None:
    """Raises ValueError, TypeError or IndexError for arguments of patched_attention that do not fit."""
    _check_dim("q", q, 4, "(P, Tq, H, D)")
    _check_dim("k", k, 4, "(P, Tk, H_kv, D)")
    _check_dim("parent", parent, 1, "(C,)")
    _check_dim("source", source, 4, "(S, Tq, H, D)")
    P, Tq, H, D = q.shape
    Tk, H_kv, C, S = k.shape[1], k.shape[2], parent.shape[0], source.shape[0]

    _check_shape("k", k, (P, Tk, H_kv, D), "(P, Tk, H_kv, D)")
    _check_shape("v", v, (P, Tk, H_kv, D), "(P, Tk, H_kv, D)")
    _check_shape("source", source, (S, Tq, H, D), "(S, Tq, H, D)")
    _check_shape("source_row", source_row, (C,), "(C,)")
    _check_shape("replace", replace, (C, Tq, H), "(C, Tq, H)")
    if Tk < Tq:
        raise ValueError(f"k has {Tk} positions, fewer than the {Tq} of q: queries are the last Tq of Tk")
    if H % H_kv != 0 if H_kv > 0 else H > 0:
        raise ValueError(f"q has {H} heads, not a multiple of the {H_kv} of k and v")
    if not 1 <= D <= MAX_HEAD_DIM:
        raise ValueError(f"head_dim must be 1 to {MAX_HEAD_DIM}, not {D}")
    if C and not P:
        raise IndexError(f"parent has {C} entries, but q has no rows")
    if C and not S:
        raise IndexError(f"source_row has {C} entries, but source has no rows")
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"scale must be finite, not {scale}")

    for name, x, dtype in (
        ("k", k, q.dtype),
        ("v", v, q.dtype),
        ("source", source, q.dtype),
        ("parent", parent, torch.int64),
        ("source_row", source_row, torch.int64),
        ("replace", replace, torch.bool),
    ):
        _check_dtype(name, x, dtype)
    for name, x in (
        ("k", k),
        ("v", v),
        ("source", source),
        ("parent", parent),
        ("source_row", source_row),
        ("replace", replace),
    ):
        _check_device(name, x, "q", q)
    for name, x in (("q", q), ("k", k), ("v", v), ("source", source)):
        _check_last_contiguous(name, x)
    if out is not None:
        _check_out("out", out, (C, Tq, H, D), "(C, Tq, H, D)", "q", q)


def check_indexes(q: Tensor, source: Tensor, parent: Tensor, source_row: Tensor) -> None:
    """Raises IndexError for an index out of range. On the CPU only: elsewhere, looking would wait for the device."""
    for name, index, of, rows in (
        ("parent", parent, "q", q.shape[0]),
        ("source_row", source_row, "source", source.shape[0]),
    ):
        if index.device.type != "cpu" or index.numel() == 0:
            continue
        low, high = torch.aminmax(index)
        if low < 0 or high >= rows:
            c = int(((index < 0) | (index >= rows)).nonzero()[0])
            raise IndexError(f"{name}[{c}] is {int(index[c])}, but {of} has {rows} rows")


def _check_dim(name: str, x: Tensor, dim: int, letters: str) -> None:
    if x.dim() != dim:
        raise ValueError(f"{name} must have shape {letters}, not {list(x.shape)}")


def _check_shape(name: str, x: Tensor, shape: tuple[int, ...], letters: str) -> None:
    if x.shape != shape:
        raise ValueError(f"{name} must have shape {letters} = {list(shape)}, not {list(x.shape)}")


def _check_dtype(name: str, x: Tensor, dtype: torch.dtype) -> None:
    if x.dtype != dtype:
        raise TypeError(f"{name} must be {dtype_name(dtype)}, not {dtype_name(x.dtype)}")


def _check_device(name: str, x: Tensor, as_name: str, as_x: Tensor) -> None:
    if x.device != as_x.device:
        raise ValueError(f"{name} is on {x.device}, but {as_name} is on {as_x.device}")


def _check_last_contiguous(name: str, x: Tensor) -> None:
    if x.shape[-1] != 1 and x.stride(-1) != 1:
        raise ValueError(f"{name} must be contiguous in its last dimension, not stride {x.stride(-1)}")


def _check_out(name: str, out: Tensor, shape: tuple[int, ...], letters: str, as_name: str, as_x: Tensor) -> None:
    _check_shape(name, out, shape, letters)
    _check_dtype(name, out, as_x.dtype)
    _check_device(name, out, as_name, as_x)
    if not out.is_contiguous():
        raise ValueError(f"{name} must be contiguous, not strides {list(out.stride())}")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
