"""Checks of an operator's tensors against each other, in the letters of its docstring."""

from __future__ import annotations

from torch import Tensor

from pilot.ops.checks import dtype_name


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
