"""Arguments for patched_attention, what its results are measured against, and every instruction set in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from pilot.ops import build, eager_patched_attention

# Error of an implementation, over twice that of eager in the same precision: what is left when both are tiny.
FLOOR = {torch.float32: 2e-6, torch.float64: 4e-15, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def each_capability():
    """A fixture for a module's own name: all its tests run on every instruction set that this CPU has."""
    module = build.load()
    facts = module.build_facts()

    @pytest.fixture(params=facts["instruction_sets"], autouse=True)
    def capability(request):
        module.use_capability(request.param)
        yield request.param
        module.use_capability(facts["instruction_set"])

    return capability


@dataclass
class Case:
    """The operator's arguments."""

    q: Tensor
    k: Tensor
    v: Tensor
    source: Tensor
    parent: Tensor
    source_row: Tensor
    replace: Tensor

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return tuple(vars(self).values())

    def having(self, **changes: Tensor) -> Case:
        return replace(self, **changes)

    def to(self, dtype: torch.dtype) -> Case:
        return self.having(**{name: getattr(self, name).to(dtype) for name in ("q", "k", "v", "source")})


def make_case(
    P: int = 3,
    T: int = 16,
    H: int = 4,
    D: int = 32,
    *,
    Tk: int | None = None,
    H_kv: int | None = None,
    S: int = 3,
    C: int | None = None,
    replaced: str = "some heads",
    dtype: torch.dtype = torch.float32,
    packed: bool = False,
    seed: int = 0,
) -> Case:
    """Random arguments. `replaced`: "no heads", "all heads", "some heads", "positions"; `packed`: q, k, v are views of
    one (P, T, 3, H, D) tensor, as a QKV projection makes it."""
    g = torch.Generator().manual_seed(seed)
    Tk, H_kv, C = T if Tk is None else Tk, H if H_kv is None else H_kv, P if C is None else C

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    if packed:
        q, k, v = normal(P, T, 3, H, D).unbind(2)
    else:
        q, k, v = normal(P, T, H, D), normal(P, Tk, H_kv, D), normal(P, Tk, H_kv, D)
    mask = {
        "no heads": lambda: torch.zeros(C, T, H, dtype=torch.bool),
        "all heads": lambda: torch.ones(C, T, H, dtype=torch.bool),
        "some heads": lambda: (torch.rand(C, 1, H, generator=g) < 0.4).expand(C, T, H).contiguous(),
        "positions": lambda: torch.rand(C, T, H, generator=g) < 0.4,
    }[replaced]()
    return Case(
        q=q,
        k=k,
        v=v,
        source=normal(S, T, H, D),
        parent=torch.randint(P, (C,), generator=g) if P else torch.zeros(0, dtype=torch.int64),
        source_row=torch.randint(S, (C,), generator=g),
        replace=mask,
    )


def exact(case: Case, **options) -> Tensor:
    """The eager twin, computed in float64."""
    return eager_patched_attention(*case.to(torch.float64).arguments, **options)


def assert_equivalent(z: Tensor, case: Case, *, floor: float | None = None, **options) -> None:
    """z is right: replaced values bit for bit, the others within twice the error of eager in the same precision, plus
    `floor` (None: that of the dtype) of the largest value."""
    dtype = case.q.dtype
    floor = FLOOR[dtype] if floor is None else floor
    expected = exact(case, **options)
    assert z.shape == expected.shape
    assert z.dtype == dtype
    assert z.is_contiguous()
    taken = case.source[case.source_row][case.replace]
    assert torch.equal(z[case.replace].view(torch.uint8), taken.view(torch.uint8)), "a replaced value was changed"
    if z.numel():
        error = (z.double() - expected).abs().max().item()
        eager_error = (eager_patched_attention(*case.arguments, **options).double() - expected).abs().max().item()
        allowed = 2 * eager_error + floor * max(1.0, expected.abs().max().item())
        assert error <= allowed, f"error {error:.3g}, eager's {eager_error:.3g}, allowed {allowed:.3g}"
