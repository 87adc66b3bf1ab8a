"""Cases for the CUDA kernels, run on a CPU by test_cuda_emulation.py and on a GPU by test_cuda.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

# Absolute error allowed beyond twice that of eager attention in the same type: some units in the last place of 1.
FLOOR = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Case:
    tq: int
    tk: int
    heads: int
    kv_heads: int
    head_dim: int
    parents: int = 3
    children: int = 7
    replaced: str = "some"  # none, heads, positions, some, all
    # packed: views of one QKV tensor; transposed: (P, H, T, D) in memory; odd: 16-byte accesses are impossible
    layout: str = "contiguous"
    magnitude: float = 1.0

    def __str__(self) -> str:
        shape = f"T{self.tq}of{self.tk}-H{self.heads}by{self.kv_heads}-D{self.head_dim}-{self.parents}to{self.children}"
        return f"{shape}-{self.replaced}-{self.layout}" + (f"-x{self.magnitude:g}" if self.magnitude != 1 else "")


def _strided(shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: str, magnitude: float) -> torch.Tensor:
    """Random values of this shape (rows, positions, heads, head_dim), in memory whose gaps hold NaN."""
    rows, positions, heads, dim = shape

    def nan(*size: int) -> torch.Tensor:
        return torch.full(size, math.nan, dtype=dtype, device=device)

    if layout == "transposed":
        x = nan(rows, heads, positions, dim).transpose(1, 2)
    elif layout == "packed":
        x = nan(rows, positions, 3, heads, dim)[:, :, 1]
    elif layout == "odd":
        x = nan(rows + 1, positions + 1, heads, dim + 3)[1:, 1:, :, 1 : dim + 1]
    else:
        x = nan(*shape)
    return x.copy_(torch.randn(shape, device=device) * magnitude)


def replace_mask(case: Case, device: str) -> torch.Tensor:
    shape = (case.children, case.tq, case.heads)
    if case.replaced in ("none", "all"):
        return torch.full(shape, case.replaced == "all", device=device)
    if case.replaced == "heads":  # whole heads, one of them in every child
        mask = torch.rand(case.children, 1, case.heads, device=device) < 0.3
        mask[:, :, 0] = True
        return mask.expand(shape).contiguous()
    if case.replaced == "positions":
        return (torch.rand(case.children, case.tq, 1, device=device) < 0.5).expand(shape).contiguous()
    return torch.rand(shape, device=device) < 0.4


def arguments(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int | None = None) -> dict[str, torch.Tensor]:
    """Random arguments; without `seed`, always the same for one shape."""
    torch.manual_seed(hash((case.tq, case.tk, case.head_dim, case.children)) % 2**31 if seed is None else seed)
    donors = 2
    q_shape = (case.parents, case.tq, case.heads, case.head_dim)
    kv_shape = (case.parents, case.tk, case.kv_heads, case.head_dim)
    source_shape = (donors, case.tq, case.heads, case.head_dim)
    return {
        "q": _strided(q_shape, case.layout, dtype, device, case.magnitude),
        "k": _strided(kv_shape, case.layout, dtype, device, case.magnitude),
        "v": _strided(kv_shape, case.layout, dtype, device, 1.0),
        "source": _strided(source_shape, case.layout, dtype, device, 1.0),
        "parent": torch.randint(case.parents, (case.children,), device=device),
        "source_row": torch.randint(donors, (case.children,), device=device),
        "replace": replace_mask(case, device),
    }


def _by_head(a: dict[str, torch.Tensor], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v as (P, H, T, D), with a key and value head for each head."""
    q, k, v = (a[name].to(dtype).transpose(1, 2) for name in ("q", "k", "v"))
    group = q.shape[1] // k.shape[1]
    return q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)


def _pattern(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    tq, tk = q.shape[2], k.shape[2]
    future = torch.ones(tq, tk, dtype=torch.bool, device=q.device).triu(tk - tq + 1)
    return ((q @ k.mT) * scale).masked_fill(future, -math.inf).softmax(-1)


def _scale(a: dict[str, torch.Tensor], scale: float | None) -> float:
    return 1 / math.sqrt(a["q"].shape[-1]) if scale is None else scale


def eager(a: dict[str, torch.Tensor], dtype: torch.dtype, scale: float | None = None) -> torch.Tensor:
    """The contract's definition, computed in `dtype`."""
    q, k, v = _by_head(a, dtype)
    attention = (_pattern(q, k, _scale(a, scale)) @ v).transpose(1, 2)
    return torch.where(a["replace"][..., None], a["source"].to(dtype)[a["source_row"]], attention[a["parent"]])


def effect_of_rounded_scores(a: dict[str, torch.Tensor], scale: float | None = None) -> float:
    """How far, to first order, rounding scores to float32 can move an output: in a near tie of large scores, far.

    z = sum_j p_j v_j moves by sum_j p_j ds_j (v_j - z) where score j moves by ds_j.
    """
    q, k, v = _by_head(a, torch.float64)
    scale = _scale(a, scale)
    p = _pattern(q, k, scale)
    rounding = torch.finfo(torch.float32).eps * abs(scale) * (q.abs() @ k.abs().mT)
    z = p @ v
    effect = 0.0
    for d in range(v.shape[3]):  # one by one: all distances together are too many
        distance = (v[:, :, None, :, d] - z[:, :, :, None, d]).abs()  # (P, H, Tq, Tk)
        effect = max(effect, (p * rounding * distance).sum(-1).max().item())
    return effect


def check(z: torch.Tensor, a: dict[str, torch.Tensor], scale: float | None = None) -> None:
    """z is the float64 result but for rounding, and the donor's bits where replaced.

    Rounding: as scores in float32 and eager in its type make likely.
    """
    exact = eager(a, torch.float64, scale)
    assert not z.isnan().any(), "NaN from outside the tensors, or from memory never written"
    error = (z.double() - exact).abs().max().item()
    # NaN: eager's float16 scores overflow, the kernels' are float32.
    eager_error = (eager(a, z.dtype, scale).double() - exact).abs().nan_to_num(0)
    allowed = 2 * eager_error.max().item() + effect_of_rounded_scores(a, scale) + FLOOR[z.dtype]
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"
    donors = a["source"][a["source_row"]]
    assert torch.equal(z[a["replace"]], donors[a["replace"]])


def check_first_keys_of_minus_infinity(
    operator: Callable[..., torch.Tensor], n: int, a: dict[str, torch.Tensor]
) -> None:
    """Keys that score -infinity leave no trace in later queries. Queries that see nothing else have NaN; PyTorch's
    attention, which runs for more than 64 keys, may give them 0."""
    a["q"].abs_()
    a["k"][:, :n] = -math.inf
    z, expected = operator(**a), eager(a, torch.float64)
    assert expected[:, :n].isnan().all()
    assert (z[:, :n].isnan() | (z[:, :n] == 0) & (a["k"].shape[1] > 64)).all()
    torch.testing.assert_close(z[:, n:].double(), expected[:, n:], atol=10 * FLOOR[z.dtype], rtol=0)


CASES = [
    # this model, and around it
    Case(16, 16, 4, 4, 32, layout="packed"),
    Case(16, 16, 4, 4, 32, replaced="all"),
    Case(22, 22, 4, 4, 32, replaced="heads"),
    Case(22, 22, 4, 4, 32, parents=9, children=9, replaced="none"),
    Case(4, 22, 4, 4, 32, replaced="positions"),
    Case(16, 16, 4, 4, 32, parents=1, children=40),
    Case(16, 16, 4, 4, 32, parents=40, children=3),
    Case(1, 1, 1, 1, 1),
    Case(1, 17, 3, 3, 8),
    # every head_dim class, both sides of each limit, with and without 16-byte accesses
    *(Case(9, 9, 2, 2, d) for d in (1, 7, 8, 15, 16, 24, 33, 64, 80, 128, 129, 256)),
    *(Case(t, t, 3, 3, 16, layout="odd") for t in (2, 5, 31)),
    Case(33, 33, 12, 12, 16, layout="transposed"),
    Case(47, 64, 12, 4, 64, parents=2, children=3),
    Case(63, 63, 6, 2, 40, parents=2, children=4, layout="odd"),
    Case(64, 64, 4, 1, 32, parents=2, children=4, layout="packed"),
    Case(31, 31, 8, 2, 64, replaced="heads"),
    # long
    Case(65, 65, 2, 1, 32, parents=2, children=3, layout="packed"),
    Case(127, 127, 2, 1, 64, parents=2, children=3, layout="packed"),
    Case(128, 128, 2, 1, 128, parents=2, children=3, layout="packed"),
    Case(129, 129, 2, 1, 80, parents=2, children=3, layout="packed"),
    Case(131, 131, 2, 1, 17, parents=2, children=3, layout="packed"),
    Case(3, 130, 2, 2, 64, parents=2, children=3),
    Case(70, 200, 2, 2, 128, parents=2, children=3, replaced="positions", layout="transposed"),
    Case(97, 97, 2, 2, 256, parents=1, children=3, replaced="heads"),
    Case(100, 110, 1, 1, 65, parents=1, children=3, layout="odd"),
    Case(130, 257, 2, 2, 64, parents=1, children=6, replaced="heads"),
    Case(80, 80, 2, 2, 64, replaced="all"),
    # large logits
    Case(20, 20, 2, 2, 32, magnitude=100.0),
    Case(90, 90, 2, 2, 64, parents=1, children=2, magnitude=100.0),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
