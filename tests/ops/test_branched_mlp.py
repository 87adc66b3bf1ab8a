"""branched_mlp: every instruction set and the eager twin against its formula in float64, and every check's words."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from support.branched_mlp_cases import ACTIVATIONS, Case, assert_close_to_exact, make_case
from support.operator_cases import each_capability
from support.project import no_compiler
from torch import Tensor
from torch.nn import functional as F

from pilot.ops import branched_mlp, eager_branched_mlp

if reason := no_compiler():
    pytest.skip(reason, allow_module_level=True)

capability = each_capability()
DTYPES = [torch.float32, torch.float64]
IMPLEMENTATIONS = [branched_mlp, eager_branched_mlp]


def run(case: Case, implementation=branched_mlp) -> Tensor:
    out = case.out()
    implementation(*case.arguments, out=out)
    return out


def assert_right(case: Case, implementation=branched_mlp) -> None:
    assert_close_to_exact(run(case, implementation), case)


# Equivalence


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_worked_by_hand(implementation):
    """x = (1, 7) has mean square 25, so the inputs (10, -5) become (2, -1); a term makes it (3, 3) and (6, 0)."""
    case = Case(
        state=torch.tensor([1.0, 7.0, 10.0, -5.0]).view(1, 1, 1, 4),
        terms=torch.tensor([2.0, -4.0, -4.0, 5.0]).view(1, 1, 1, 1, 4),
        member=torch.tensor([False, True]).view(2, 1, 1, 1),
        in_bias=torch.tensor([0.0, 1.0]),
        out_bias=torch.tensor([100.0, 200.0]),
        mlp_out=torch.tensor([[1.0, 0.0], [10.0, 1.0]]),
        eps=0.0,
        activation="gelu",
    )
    # gelu(2) = 2 Phi(2) = 2 * 0.9772499, gelu(0) = 0, gelu(1) = Phi(1) = 0.8413447
    want = torch.tensor([[101 + 1.9544997, 207.0], [103 + 1.9544997 + 8.413447, 203 + 0.8413447]])
    torch.testing.assert_close(run(case, implementation).view(2, 2), want)
    # The gate is 10 / 5 + 0 = 2, and its sigmoid 0.8807971; the other input is -5 / 5 + 1 = 0, or 0 / 3 + 1 = 1.
    gated = case.having(mlp_out=torch.tensor([[1.0, -1.0]]), activation="silu_gated")
    want = torch.tensor([[101.0, 207.0], [103 + 2 * 0.8807971, 203 - 2 * 0.8807971]])
    torch.testing.assert_close(run(gated, implementation).view(2, 2), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("d", "m"), [(1, 1), (3, 5), (16, 16), (33, 70), (64, 128), (128, 384), (130, 7), (5, 300), (40, 385), (20, 900)]
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_widths(activation, d, m, dtype):
    for implementation in IMPLEMENTATIONS:
        assert_right(make_case(1, d=d, m=m, activation=activation, dtype=dtype, seed=d), implementation)


@settings(max_examples=40)
@given(
    sizes=st.fixed_dictionaries({name: st.integers(0, 5) for name in "NCBWK"}),
    d=st.integers(1, 70),
    m=st.integers(0, 70),
    activation=st.sampled_from(ACTIVATIONS),
    by_row=st.booleans(),
    biased=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_any_arguments(implementation, sizes, d, m, activation, by_row, biased, dtype, seed):
    case = make_case(**sizes, d=d, m=m, activation=activation, by_row=by_row, biased=biased, dtype=dtype, seed=seed)
    assert_right(case, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("K", range(9))
def test_all_numbers_of_terms(K, implementation):
    """Branch c adds the first c terms; then in another order, as the eager twin begins with an earlier sum."""
    case = make_case(C=K + 1, K=K)
    case = case.having(member=torch.ones(K + 1, K + 1).tril(-1)[:, :K].bool()[:, None, None].expand(K + 1, 3, 4, K))
    assert_right(case, implementation)
    assert_right(case.having(member=case.member.flip(0)), implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_all_subsets_of_terms(implementation):
    """In the order of a trie, where the sum of one branch begins another's, and in the opposite order."""
    subsets = torch.arange(16)[:, None] >> torch.arange(4) & 1 == 1
    case = make_case(C=16, K=4).having(member=subsets[:, None, None].expand(16, 3, 4, 4))
    assert_right(case, implementation)
    assert_right(case.having(member=case.member.flip(0)), implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_views(implementation):
    """Windows of longer states, every other term, masks expanded over pairs and positions, a wider result."""
    long = make_case(W=9, K=6, by_row=False)
    views = long.having(
        state=long.state[:, :, 2:5],
        terms=long.terms[::2, :, :, 2:5],
        member=long.member[:, :, 2:5, ::2],
        mlp_out=torch.cat([long.mlp_out, long.mlp_out], dim=1)[:, 16:],
    )
    same = views.having(**{name: x.contiguous() for name, x in vars(views).items() if isinstance(x, Tensor)})
    assert views.member.stride()[1:3] == (0, 0)
    assert torch.equal(run(views, implementation), run(same, implementation))
    wide = torch.zeros(5, 2, 3, 3, 40)
    implementation(*views.arguments, out=wide.transpose(0, 1)[..., 3:19])
    assert torch.equal(wide.transpose(0, 1)[..., 3:19], run(same, implementation))
    assert (wide[..., :3] == 0).all()
    assert (wide[..., 19:] == 0).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_branch_has_the_same_bits_whatever_is_computed_with_it(activation):
    case = make_case(N=20, C=8, d=64, m=400, activation=activation)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(run(case))
    finally:
        torch.set_num_threads(threads)
    alone = [run(case.having(state=case.state[i : i + 1], terms=case.terms[:, i : i + 1])) for i in range(20)]
    few = [run(case.having(member=case.member[c : c + 1])) for c in range(8)]
    assert all(torch.equal(result, results[0]) for result in (*results, torch.cat(alone), torch.cat(few, dim=1)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("by_row", [False, True], ids=["by branch", "by row"])
def test_nan_and_infinity_stay_in_their_branch(by_row, bad, implementation):
    case = make_case(K=2, by_row=by_row)
    terms = case.terms.clone()
    terms[1] = bad
    got, want = run(case.having(terms=terms), implementation), run(case, implementation)
    adds = case.member[..., 1].expand(2, 5, 3, 4)
    assert adds.any()
    assert not adds.all()
    assert torch.equal(got[~adds], want[~adds])
    assert got[adds].isnan().any(-1).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nan_stays_in_its_row(implementation):
    case = make_case()
    state = case.state.clone()
    state[1, 2, 3] = math.nan
    got, want = run(case.having(state=state), implementation), run(case, implementation)
    assert got[1, :, 2, 3].isnan().all()
    got[1, :, 2, 3] = want[1, :, 2, 3]
    assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype):
    """One hidden unit a row, and an x too small to count: what comes out is the activation.

    Within 5e-7 (float64: 2e-15), and some units in the last place where it is large: half a one for "gelu".
    """
    z = torch.cat([torch.linspace(-12, 12, 200_001), torch.logspace(-30, 30, 1001), -torch.logspace(-30, 30, 1001)])
    z = torch.cat([z, torch.tensor([-math.inf, 0.0, math.inf, math.nan])]).to(dtype)
    gated = activation.endswith("_gated")
    tiny = 2.0**-60  # of which the square is a normal number
    columns = [torch.full_like(z, tiny), z * tiny] + [torch.full_like(z, tiny)] * gated
    case = Case(
        state=torch.stack(columns, dim=-1).view(1, 1, -1, len(columns)),
        terms=torch.zeros(0, 1, 1, len(z), len(columns), dtype=dtype),
        member=torch.zeros(1, 1, len(z), 0, dtype=torch.bool),
        in_bias=None,
        out_bias=None,
        mlp_out=torch.ones(1, 1, dtype=dtype),
        eps=0.0,
        activation=activation,
    )
    got, z = run(case).flatten().double(), z.double()
    want = (
        F.silu(z) if activation == "silu_gated" else F.gelu(z, approximate="none" if activation == "gelu" else "tanh")
    )
    bound = {torch.float32: 5e-7, torch.float64: 2e-15}[dtype]
    units = 0.5 if activation == "gelu" else 2
    finite = z.isfinite()
    assert ((got - want).abs() <= bound + z.abs() * torch.finfo(dtype).eps * units)[finite].all()
    assert got[-3:-1].tolist() == [tiny, math.inf]
    assert got[-1].isnan()
    if activation == "gelu":  # the others are NaN at minus infinity, as they are in PyTorch
        assert abs(got[-4]) < 5e-7


# Calling it


def test_opcheck():
    for activation in ("gelu", "silu_gated"):
        case = make_case(activation=activation)
        torch.library.opcheck(torch.ops.pilot.branched_mlp, case.arguments, {"out": case.out()})
    unbiased = make_case(biased=False)
    torch.library.opcheck(torch.ops.pilot.branched_mlp, unbiased.arguments, {"out": unbiased.out()})


def test_what_has_no_kernel_is_refused():
    case = make_case().to(torch.float16)
    with pytest.raises(NotImplementedError, match="\"branched_mlp\" not implemented for 'Half'"):
        run(case)
    torch.testing.assert_close(run(case, eager_branched_mlp).float(), run(make_case()), atol=5e-2, rtol=0)


# Words: (what to change, exception, message)
WRONG = {
    "state dim": ({"state": lambda x: x[0]}, ValueError, r"state must have shape \(N, B, W, d\+h\), not \[3, 4, 56\]"),
    "terms dim": ({"terms": lambda x: x[0]}, ValueError, r"terms must have shape \(K, N, B, W, d\+h\), not \[2, 3"),
    "mlp_out dim": ({"mlp_out": lambda x: x[0]}, ValueError, r"mlp_out must have shape \(m, d\), not \[16\]"),
    "columns": (
        {"mlp_out": lambda x: x[1:]},
        ValueError,
        r"state must have shape \(N, B, W, d\+h\) with d\+h = 55, not \[2, 3, 4, 56\]",
    ),
    "gated": (
        {"activation": lambda _: "silu_gated"},
        ValueError,
        r"state must have shape \(N, B, W, d\+h\) with d\+h = 96, not \[2, 3, 4, 56\]",
    ),
    "terms shape": (
        {"terms": lambda x: x[:, 1:]},
        ValueError,
        r"terms must have shape \(K, N, B, W, d\+h\) with N = 2, not \[3, 1, 3, 4, 56\]",
    ),
    "member shape": (
        {"member": lambda x: x[..., 1:]},
        ValueError,
        r"member must have shape \(C, B, W, K\) with K = 3, not \[5, 3, 4, 2\]",
    ),
    "in_bias shape": ({"in_bias": lambda x: x[1:]}, ValueError, r"in_bias must have shape \(h\) with h = 40, not \[39"),
    "out_bias shape": (
        {"out_bias": lambda x: x[1:]},
        ValueError,
        r"out_bias must have shape \(d\) with d = 16, not",
    ),
    "activation": (
        {"activation": lambda _: "relu"},
        ValueError,
        "activation must be one of gelu, gelu_tanh, silu_gated, gelu_tanh_gated, not 'relu'",
    ),
    "eps below 0": ({"eps": lambda eps: -eps}, ValueError, "eps must be finite and not negative, not -1e-05"),
    "eps infinite": ({"eps": lambda _: math.inf}, ValueError, "eps must be finite and not negative, not inf"),
    "terms dtype": ({"terms": lambda x: x.double()}, TypeError, "terms must be float32 as state is, not float64"),
    "member dtype": ({"member": lambda x: x.byte()}, TypeError, "member must be bool on the CPU, not uint8 on cpu"),
    "mlp_out device": ({"mlp_out": lambda x: x.to("meta")}, ValueError, "mlp_out is on meta, but state is on cpu"),
    "state stride": (
        {"state": lambda x: x.mT.contiguous().mT},
        ValueError,
        "state must be contiguous in its last dimension, not stride 4",
    ),
    "mlp_out stride": (
        {"mlp_out": lambda x: x.mT.contiguous().mT},
        ValueError,
        "mlp_out must be contiguous in its last dimension, not stride 40",
    ),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("wrong", WRONG)
def test_words_for_wrong_arguments(wrong, implementation):
    changes, exception, message = WRONG[wrong]
    case = make_case()
    out = case.out()
    case = case.having(**{name: change(getattr(case, name)) for name, change in changes.items()})
    with pytest.raises(exception, match=message):
        implementation(*case.arguments, out=out)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_words_for_a_wrong_result(implementation):
    case = make_case()
    for change, exception, message in (
        (lambda x: x[1:], ValueError, r"out must have shape \(N, C, B, W, d\) with N = 2, not \[1, 5, 3, 4, 16\]"),
        (lambda x: x.double(), TypeError, "out must be float32 as state is, not float64"),
        (lambda x: x.mT.contiguous().mT, ValueError, "out must be contiguous in its last dimension, not stride 4"),
    ):
        with pytest.raises(exception, match=message):
            implementation(*case.arguments, out=change(case.out()))


def test_out_shares_no_memory():
    case = make_case(C=1)
    memory = torch.zeros(case.terms.numel())
    out = memory[: case.out().numel()].view(case.out().shape)
    for name in ("state", "terms", "mlp_out"):
        x = getattr(case, name)
        with pytest.raises(RuntimeError, match="unsupported operation: some elements of the input"):
            branched_mlp(*case.having(**{name: memory[: x.numel()].view(x.shape)}).arguments, out=out)
    with pytest.raises(RuntimeError, match="unsupported operation: more than one element"):
        branched_mlp(*case.arguments, out=case.out()[:1].expand(2, -1, -1, -1, -1))


def test_a_call_past_the_checks_is_safe():
    """torch.ops.pilot.branched_mlp asserts what memory safety needs by itself."""
    case = make_case()
    for changes in ({"mlp_out": case.mlp_out[1:]}, {"member": case.member[1:]}, {"terms": case.terms.double()}):
        with pytest.raises(RuntimeError):
            torch.ops.pilot.branched_mlp(*case.having(**changes).arguments, out=case.out())
    with pytest.raises(RuntimeError, match="no activation is called relu"):
        torch.ops.pilot.branched_mlp(*case.having(activation="relu").arguments, out=case.out())
