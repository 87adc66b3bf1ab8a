"""Arguments for branched_mlp, and what its results are measured against."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS = ["gelu", "gelu_tanh", "silu_gated", "gelu_tanh_gated"]
# Of sums of a few numbers of size 1 in any order, and of the activations; in 16 bits, of hidden units and results.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 3e-15, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass
class Case:
    """The operator's arguments."""

    state: Tensor
    terms: Tensor
    member: Tensor
    in_bias: Tensor | None
    out_bias: Tensor | None
    mlp_out: Tensor
    eps: float
    activation: str

    @property
    def arguments(self) -> tuple:
        return tuple(vars(self).values())

    def out(self) -> Tensor:
        n, b, w, _ = self.state.shape
        return self.state.new_full((n, len(self.member), b, w, self.mlp_out.shape[1]), math.nan)

    def having(self, **changes) -> Case:
        return replace(self, **changes)

    def to(self, to: torch.dtype | str) -> Case:
        keep = {} if isinstance(to, str) else {"member": self.member}
        moved = {name: x.to(to) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return self.having(**moved | keep)


def make_case(
    N: int = 2,
    C: int = 5,
    B: int = 3,
    W: int = 4,
    K: int = 3,
    d: int = 16,
    m: int = 40,
    activation: str = "gelu",
    *,
    by_row: bool = True,
    biased: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    """Random arguments. `by_row`: every row of a branch has its own terms; else all rows of a branch have the same."""
    g = torch.Generator().manual_seed(seed)
    h = 2 * m if activation.endswith("_gated") else m

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    member = torch.rand((C, B, W, K) if by_row else (C, 1, 1, K), generator=g) < 0.5
    return Case(
        normal(N, B, W, d + h),
        normal(K, N, B, W, d + h),
        member.expand(C, B, W, K),
        normal(h) if biased else None,
        normal(d) if biased else None,
        normal(m, d) / max(1, m) ** 0.5,
        1e-5,
        activation,
    )


def exact(case: Case) -> tuple[Tensor, Tensor]:
    """The formula in float64; and the largest error that is rounding, in units of the tolerance.

    An error in the sum of a state and its terms is as large as those, and is divided by what is left of them.
    """
    state, terms, member, in_bias, out_bias, mlp_out, eps, activation = case.to(torch.float64).arguments
    m, d = mlp_out.shape
    chosen = torch.where(member[:, :, None, :, :].permute(4, 2, 0, 1, 3).unsqueeze(-1), terms.unsqueeze(2), 0)
    x, inputs = (state.unsqueeze(1) + chosen.sum(0)).tensor_split([d], dim=-1)
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    inputs = inputs * scale + (0 if in_bias is None else in_bias)
    gate, up = inputs.tensor_split([m], dim=-1)
    hidden = {
        "gelu": lambda: F.gelu(gate),
        "gelu_tanh": lambda: F.gelu(gate, approximate="tanh"),
        "silu_gated": lambda: F.silu(gate) * up,
        "gelu_tanh_gated": lambda: F.gelu(gate, approximate="tanh") * up,
    }[activation]()
    out = x + hidden @ mlp_out + (0 if out_bias is None else out_bias)
    summands = (state.abs().unsqueeze(1) + chosen.abs().sum(0)).amax(-1, keepdim=True)
    size = (summands * scale).clamp(min=1) * (1 + inputs.abs().amax(-1, keepdim=True) if m else 1)
    size = size * (1 + gate.abs()) @ mlp_out.abs() + summands + (0 if out_bias is None else out_bias.abs()) + 1
    return out, size


def assert_close_to_exact(got: Tensor, case: Case) -> None:
    """`got` is the formula's result in float64, but for rounding."""
    want, size = exact(case)
    assert got.dtype == case.state.dtype
    error = (got.double() - want).abs()
    assert (error <= TOLERANCE[case.state.dtype] * size).all(), (error / size).max()
