"""branched_hidden: every instruction set and the eager twin against its formula in float64, and every check's words."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from support.operator_cases import each_capability
from support.project import no_compiler
from torch import Tensor

from pilot.errors import PilotError
from pilot.ops import branched_hidden, build, eager_branched_hidden
from pilot.sweep.layout import membership

if reason := no_compiler():
    pytest.skip(reason, allow_module_level=True)

MODULE = build.load()
capability = each_capability()
IMPLEMENTATIONS = ["fused", "eager"]
# Of sums of a few numbers of size 1 in any order, and of gelu.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 2e-15}


@dataclass
class Case:
    """The operator's arguments."""

    state: Tensor
    terms: Tensor
    member: Tensor
    in_bias: Tensor
    out_bias: Tensor
    eps: float = 1e-5

    @property
    def arguments(self) -> tuple:
        return tuple(vars(self).values())

    @property
    def rows(self) -> tuple[int, ...]:
        n, b, w, _ = self.state.shape
        return n, len(self.member), b, w

    def outputs(self) -> dict[str, Tensor]:
        sizes = {"hidden": self.in_bias.shape[0], "after": self.out_bias.shape[0]}
        return {name: self.state.new_full((*self.rows, size), math.nan) for name, size in sizes.items()}

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
    *,
    by_row: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    """Random arguments. `by_row`: every row of a branch has its own terms; else all rows of a branch have the same."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    member = torch.rand((C, B, W, K) if by_row else (C, 1, 1, K), generator=g) < 0.5
    return Case(
        normal(N, B, W, d + m), normal(K, N, B, W, d + m), member.expand(C, B, W, K), normal(m), normal(d)
    )  # fmt: skip


def run(case: Case, impl: str) -> dict[str, Tensor]:
    outputs = case.outputs()
    branched_hidden(*case.arguments, impl=impl, **outputs)
    return outputs


def exact(case: Case) -> tuple[dict[str, Tensor], Tensor]:
    """The formula, branch by branch and in float64; and how much it makes of a rounding error, row by row.

    An error in the sum of a state and its terms is as large as those, and is divided by what is left of them.
    """
    state, terms, member, in_bias, out_bias, eps = case.to(torch.float64).arguments
    chosen = torch.where(member[:, :, None, :, :].permute(4, 2, 0, 1, 3).unsqueeze(-1), terms.unsqueeze(2), 0)
    x, inputs = (state.unsqueeze(1) + chosen.sum(0)).split([len(out_bias), len(in_bias)], dim=-1)
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    outputs = {"hidden": torch.nn.functional.gelu(inputs * scale + in_bias), "after": x + out_bias}
    summands = (state.abs().unsqueeze(1) + chosen.abs().sum(0)).amax(-1, keepdim=True)
    return outputs, (summands * scale).clamp(min=1)


def assert_right(case: Case, impl: str) -> None:
    got, (want, amplified) = run(case, impl), exact(case)
    for name, x in got.items():
        assert x.dtype == case.state.dtype
        error = (x.double() - want[name]).abs()
        assert (error <= TOLERANCE[case.state.dtype] * amplified * (1 + want[name].abs())).all(), error.max()


# Equivalence


def test_membership_worked_by_hand():
    """Two pairs read at positions (1, 4) and (2, 4); head 2 is column 0, head 5 column 1."""
    branches = [(), ((2, 0, 2), (2, 4, 5)), ((2, 4, 9), (5, 2, 3))]
    member = membership(branches, [2, 5], torch.tensor([[1, 4], [2, 4]]))
    assert member[0].any().item() is False
    assert member[1, ..., 0].tolist() == [[True, True], [False, True]]
    assert member[1, ..., 1].any().item() is False
    assert member[2, ..., 0].tolist() == [[False, True], [False, True]]
    assert member[2, ..., 1].tolist() == [[False, False], [True, False]]
    assert membership([(), ()], [], torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 2, 3, 0)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_worked_by_hand(impl):
    """x = (1, 7) has mean square 25, so the inputs (10, -5) become (2, -1); a term makes it (3, 3) and (6, 0)."""
    case = Case(
        state=torch.tensor([1.0, 7.0, 10.0, -5.0]).view(1, 1, 1, 4),
        terms=torch.tensor([2.0, -4.0, -4.0, 5.0]).view(1, 1, 1, 1, 4),
        member=torch.tensor([False, True]).view(2, 1, 1, 1),
        in_bias=torch.tensor([0.0, 1.0]),
        out_bias=torch.tensor([100.0, 200.0]),
        eps=0.0,
    )
    got = run(case, impl)
    # gelu(2) = 2 Phi(2) = 2 * 0.9772499, gelu(0) = 0, gelu(1) = Phi(1) = 0.8413447
    torch.testing.assert_close(got["hidden"].view(2, 2), torch.tensor([[1.9544997, 0.0], [1.9544997, 0.8413447]]))
    torch.testing.assert_close(got["after"].view(2, 2), torch.tensor([[101.0, 207.0], [103.0, 203.0]]))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("d", "m"), [(1, 1), (3, 5), (16, 16), (33, 70), (64, 128), (128, 384), (130, 7), (5, 300)])
@pytest.mark.parametrize("by_row", [False, True], ids=["by branch", "by row"])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_widths(impl, by_row, d, m, dtype):
    assert_right(make_case(d=d, m=m, by_row=by_row, dtype=dtype, seed=d), impl)


@settings(max_examples=40)
@given(
    sizes=st.fixed_dictionaries({name: st.integers(0, 5) for name in "NCBWK"}),
    d=st.integers(1, 70),
    m=st.integers(0, 70),
    by_row=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 2**32),
)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_any_arguments(impl, sizes, d, m, by_row, dtype, seed):
    assert_right(make_case(**sizes, d=d, m=m, by_row=by_row, dtype=dtype, seed=seed), impl)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_all_subsets_of_terms(impl):
    """In the order of a trie, where the sum of one branch begins another's, and in the opposite order."""
    case = make_case(C=16, K=4, by_row=False)
    subsets = torch.arange(16)[:, None] >> torch.arange(4) & 1 == 1
    case = case.having(member=subsets[:, None, None].expand(16, 3, 4, 4))
    assert_right(case, impl)
    assert_right(case.having(member=case.member.flip(0)), impl)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_views(impl):
    """Windows of longer states, terms that are every other one of more, masks expanded over pairs and positions."""
    long = make_case(W=9, K=6, by_row=False)
    views = long.having(
        state=long.state[:, :, 2:5], terms=long.terms[::2, :, :, 2:5], member=long.member[:, :, 2:5, ::2]
    )
    same = views.having(**{name: getattr(views, name).contiguous() for name in ("state", "terms", "member")})
    assert not views.state.is_contiguous()
    assert views.member.stride()[1:3] == (0, 0)
    got, want = run(views, impl), run(same, impl)
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert_right(views, impl)


def test_threads_do_not_change_bits():
    case = make_case(N=40, C=8, d=128, m=384)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(run(case, "fused"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result[name], results[0][name]) for result in results for name in result)


# Numbers that are hard


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("by_row", [False, True], ids=["by branch", "by row"])
def test_a_bad_term_reaches_only_what_adds_it(by_row, impl, bad):
    case = make_case(by_row=by_row)
    terms = case.terms.clone()
    terms[1] = bad
    got, want = run(case.having(terms=terms), impl), run(case, impl)
    adds = case.member[..., 1].expand(2, -1, -1, -1)
    assert adds.any()
    assert not adds.all()
    for name in want:
        assert torch.equal(got[name][~adds], want[name][~adds])
        assert not got[name][adds].isfinite().any()


@pytest.mark.parametrize(("gelu", "dtype"), [(MODULE.gelu, torch.float32), (MODULE.gelu_double, torch.float64)])
def test_gelu_error(gelu, dtype):
    """Within 5e-7 (float64: 2e-15) and half a unit in the last place of x."""
    x = torch.cat([torch.linspace(-12, 12, 200_001), torch.logspace(-30, 30, 1001), -torch.logspace(-30, 30, 1001)])
    x = x.to(dtype)
    want = x.double() * torch.special.ndtr(x.double())
    bound = {torch.float32: 5e-7, torch.float64: 2e-15}[dtype] + x.double().abs() * torch.finfo(dtype).eps / 2
    assert ((torch.tensor(gelu(x.tolist()), dtype=dtype).double() - want).abs() <= bound).all()
    assert gelu([0.0, math.inf]) == [0.0, math.inf]
    assert math.isnan(gelu([math.nan])[0])
    assert abs(gelu([-math.inf])[0]) < 5e-7


# Calling it


def test_implementations():
    case = make_case()
    fused, auto = run(case, "fused"), run(case, "auto")
    assert all(torch.equal(auto[name], fused[name]) for name in fused)
    with pytest.raises(PilotError, match="impl must be auto, fused or eager, not 'fast'"):
        run(case, "fast")
    with pytest.raises(PilotError, match="does not compute in float16 on cpu"):
        run(case.to(torch.float16), "fused")
    half = run(case.to(torch.float16), "auto")
    torch.testing.assert_close(half["hidden"].float(), fused["hidden"], atol=2e-2, rtol=0)


def test_opcheck():
    case = make_case()
    run(case, "fused")  # which tells PyTorch the shapes
    torch.library.opcheck(torch.ops.pilot.branched_hidden, case.arguments, case.outputs())


# Words: (what to change, exception, message)
WRONG = {
    "state dim": (
        {"state": lambda x: x[0]},
        ValueError,
        r"state must have shape \(N, B, W, d \+ m\), not \[3, 4, 56\]",
    ),
    "terms dim": ({"terms": lambda x: x[0]}, ValueError, r"terms must have shape \(K, N, B, W, d \+ m\), not \[2,"),
    "member dim": ({"member": lambda x: x[0]}, ValueError, r"member must have shape \(C, B, W, K\), not \[3, 4, 3\]"),
    "in_bias dim": ({"in_bias": lambda x: x[None]}, ValueError, r"in_bias must have shape \(m,\), not \[1, 40\]"),
    "out_bias dim": ({"out_bias": lambda x: x[None]}, ValueError, r"out_bias must have shape \(d,\), not \[1, 16\]"),
    "columns": (
        {"in_bias": lambda x: x[1:]},
        ValueError,
        r"state must have shape \(N, B, W, d \+ m\) = \[2, 3, 4, 55\], not \[2, 3, 4, 56\]",
    ),
    "terms shape": (
        {"terms": lambda x: x[:, 1:]},
        ValueError,
        r"terms must have shape \(K, N, B, W, d \+ m\) = \[3, 2, 3, 4, 56\], not \[3, 1,",
    ),
    "member shape": (
        {"member": lambda x: x[..., 1:]},
        ValueError,
        r"member must have shape \(C, B, W, K\) = \[5, 3, 4, 3\], not \[5, 3, 4, 2\]",
    ),
    "eps below 0": ({"eps": lambda eps: -eps}, ValueError, "eps must be finite and not negative, not -1e-05"),
    "eps infinite": ({"eps": lambda eps: math.inf}, ValueError, "eps must be finite and not negative, not inf"),
    "terms dtype": ({"terms": lambda x: x.double()}, TypeError, "terms must be float32, not float64"),
    "in_bias dtype": ({"in_bias": lambda x: x.double()}, TypeError, "in_bias must be float32, not float64"),
    "out_bias dtype": ({"out_bias": lambda x: x.half()}, TypeError, "out_bias must be float32, not float16"),
    "member dtype": ({"member": lambda x: x.byte()}, TypeError, "member must be bool, not uint8"),
    "state stride": (
        {"state": lambda x: x.mT.contiguous().mT},
        ValueError,
        "state must be contiguous in its last dimension, not stride 4",
    ),
    "terms stride": (
        {"terms": lambda x: x.mT.contiguous().mT},
        ValueError,
        "terms must be contiguous in its last dimension, not stride 4",
    ),
    "bias stride": (
        {"in_bias": lambda x: x.repeat_interleave(2)[::2]},
        ValueError,
        "in_bias must be contiguous in its last dimension, not stride 2",
    ),
}


@pytest.mark.parametrize("implementation", [torch.ops.pilot.branched_hidden, eager_branched_hidden])
@pytest.mark.parametrize("wrong", WRONG)
def test_words_for_wrong_arguments(wrong, implementation):
    changes, exception, message = WRONG[wrong]
    run(make_case(), "fused")  # which tells PyTorch the shapes
    on_meta = torch.ops.pilot.branched_hidden, make_case().to("meta")
    for call, case in ((implementation, make_case()), on_meta):
        outputs = case.outputs()
        case = case.having(**{name: change(getattr(case, name)) for name, change in changes.items()})
        with pytest.raises(exception, match=message):
            call(*case.arguments, **outputs)


@pytest.mark.parametrize("implementation", [torch.ops.pilot.branched_hidden, eager_branched_hidden])
def test_words_for_wrong_outputs(implementation):
    case = make_case()
    for name, change, exception, message in (
        (
            "hidden",
            lambda x: x[1:],
            ValueError,
            r"hidden must have shape \(N, C, B, W, m\) = \[2, 5, 3, 4, 40\], not \[1",
        ),
        (
            "after",
            lambda x: x[1:],
            ValueError,
            r"after must have shape \(N, C, B, W, d\) = \[2, 5, 3, 4, 16\], not \[1,",
        ),
        ("hidden", lambda x: x.double(), TypeError, "hidden must be float32, not float64"),
        ("after", lambda x: x.to("meta"), ValueError, "after is on meta, but state is on cpu"),
        ("after", lambda x: x.mT.contiguous().mT, ValueError, "after must be contiguous, not strides"),
    ):
        outputs = case.outputs()
        outputs[name] = change(outputs[name])
        with pytest.raises(exception, match=message):
            implementation(*case.arguments, **outputs)


def test_other_words_of_the_operator():
    case = make_case()
    with pytest.raises(TypeError, match="branched_hidden does not compute in bfloat16 on cpu"):
        torch.ops.pilot.branched_hidden(*case.to(torch.bfloat16).arguments, **case.to(torch.bfloat16).outputs())
    for implementation in (torch.ops.pilot.branched_hidden, eager_branched_hidden):
        for name in ("terms", "member", "in_bias"):
            elsewhere = case.having(**{name: getattr(case, name).to("meta")})
            with pytest.raises(ValueError, match=f"{name} is on meta, but state is on cpu"):
                implementation(*elsewhere.arguments, **case.outputs())
    memory = torch.zeros(2 * 5 * 3 * 4 * 56)
    shared = {name: memory[: x.numel()].view(x.shape) for name, x in case.outputs().items()}
    inside = {"state": memory[: case.state.numel()].view(case.state.shape)}
    terms = {"terms": memory[: case.terms.numel()].view(case.terms.shape)}
    for name in ("hidden", "after"):
        outputs = case.outputs() | {name: shared[name]}
        with pytest.raises(ValueError, match=f"{name} must not share memory with state"):
            torch.ops.pilot.branched_hidden(*case.having(**inside).arguments, **outputs)
        with pytest.raises(ValueError, match=f"{name} must not share memory with terms"):
            torch.ops.pilot.branched_hidden(*case.having(**terms).arguments, **outputs)
    with pytest.raises(ValueError, match="hidden must not share memory with after"):
        torch.ops.pilot.branched_hidden(*case.arguments, **shared)
