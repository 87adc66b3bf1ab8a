"""`product`: a matrix product with rows at any distance from each other."""

from __future__ import annotations

import torch
from torch import Tensor

from pilot.ops.checks import check_alike, check_shapes
from pilot.ops.registration import register


def product(x: Tensor, matrix: Tensor, bias: Tensor | None = None, *, add: bool = False, out: Tensor) -> None:
    """x @ matrix.

    Equivalent to:  out[:] = x @ matrix + bias + (out if add else 0)

    x         (M, K)     the last dimension of each tensor is contiguous; strides of the others are free
    matrix    (K, N)
    bias      (N,)       None: 0
    add       add to what `out` holds
    out       (M, N)     written; shares no memory with x or matrix

    On a CPU, in float32 or float64, a row's result has the same bits whatever rows are computed with it, and with any
    number of threads. There is no gradient.

    Raises ValueError or TypeError for arguments that do not fit.
    """
    _product(x, matrix, bias, add=add, out=out)


@torch.no_grad()
def eager_product(x: Tensor, matrix: Tensor, bias: Tensor | None = None, *, add: bool = False, out: Tensor) -> None:
    """`product` in PyTorch: the operator's oracle, and what runs where it has no kernel."""
    _check(x, matrix, bias, add=add, out=out)
    if add:
        out.addmm_(x, matrix)
        if bias is not None:
            out += bias
    elif bias is not None:
        torch.addmm(bias, x, matrix, out=out)
    else:
        torch.mm(x, matrix, out=out)


def _check(x: Tensor, matrix: Tensor, bias: Tensor | None = None, *, add: bool = False, out: Tensor) -> None:
    check_shapes({}, x=(x, "M K"), matrix=(matrix, "K N"), bias=(bias, "N"), out=(out, "M N"))
    check_alike("x", x=x, matrix=matrix, bias=bias, out=out)


_product = register(
    "product",
    "(Tensor x, Tensor matrix, Tensor? bias=None, *, bool add=False, Tensor(a!) out) -> ()",
    eager_product,
    _check,
)
