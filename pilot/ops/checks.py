"""Checks of an operator's tensors against each other, in the letters of its docstring."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_HEAD_DIM = 256  # kMaxHeadDim in csrc/patched_attention/patched_attention.h


def check_shapes(known: dict[str, int], **tensors: tuple[Tensor | None, str]) -> dict[str, int]:
    """The size that each letter stands for. A letter means the same wherever it stands.

    known      sizes that letters have already
    tensors    by name: the tensor, or None where it is optional, and a letter for each of its dimensions, with spaces
               between them

    Raises ValueError for a tensor of another shape.
    """
    sizes = dict(known)
    for name, (x, letters) in tensors.items():
        if x is None:
            continue
        dimensions = letters.split()
        if x.dim() != len(dimensions):
            raise ValueError(f"{name} must have shape ({', '.join(dimensions)}), not {list(x.shape)}")
        for letter, size in zip(dimensions, x.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(
                    f"{name} must have shape ({', '.join(dimensions)}) with {letter} = {sizes[letter]}, "
                    f"not {list(x.shape)}"
                )
    return sizes


def check_alike(like: str, **tensors: Tensor | None) -> None:
    """Raises TypeError or ValueError unless all tensors have dtype and device of the one that is called `like`.

    The last dimension of each must be contiguous, which kernels rely on.
    """
    model = tensors[like]
    assert model is not None
    for name, x in tensors.items():
        if x is None:
            continue
        if x.dtype != model.dtype:
            raise TypeError(f"{name} must be {dtype_name(model.dtype)} as {like} is, not {dtype_name(x.dtype)}")
        if x.device != model.device:
            raise ValueError(f"{name} is on {x.device}, but {like} is on {model.device}")
        if x.shape[-1] > 1 and x.stride(-1) != 1:
            raise ValueError(f"{name} must be contiguous in its last dimension, not stride {x.stride(-1)}")


def check_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None, out: Tensor | None) -> dict[str, int]:
    """The sizes P, Tq, Tk, H, H_kv and D of attention whose queries are the last Tq of Tk positions.

    Raises ValueError or TypeError where q (P, Tq, H, D) and k and v (P, Tk, H_kv, D) do not fit together, and for an
    `out` of another dtype or device, or with gaps.
    """
    sizes = check_shapes({}, q=(q, "P Tq H D"), k=(k, "P Tk H_kv D"), v=(v, "P Tk H_kv D"))
    if sizes["Tk"] < sizes["Tq"]:
        raise ValueError(
            f"k has {sizes['Tk']} positions, fewer than the {sizes['Tq']} of q: queries are the last Tq of Tk"
        )
    if sizes["H"] % sizes["H_kv"] if sizes["H_kv"] else sizes["H"]:
        raise ValueError(f"q has {sizes['H']} heads, not a multiple of the {sizes['H_kv']} of k and v")
    if not 1 <= sizes["D"] <= MAX_HEAD_DIM:
        raise ValueError(f"head_dim must be 1 to {MAX_HEAD_DIM}, not {sizes['D']}")
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"scale must be finite, not {scale}")
    check_alike("q", q=q, k=k, v=v, out=out)
    if out is not None and not out.is_contiguous():
        raise ValueError(f"out must be contiguous, not strides {list(out.stride())}")
    return sizes


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
