"""product: every instruction set and the eager twin against PyTorch in float64, and every check's words."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from support.operator_cases import each_capability
from support.project import no_compiler
from torch import Tensor

from pilot.ops import eager_product, product

if reason := no_compiler():
    pytest.skip(reason, allow_module_level=True)

capability = each_capability()
IMPLEMENTATIONS = [product, eager_product]


def make_case(M: int, K: int, N: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, ...]:
    """x, matrix, bias, and what out holds before."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((M, K), (K, N), (N,), (M, N))
    return tuple(torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes)


def assert_right(implementation, x: Tensor, matrix: Tensor, bias: Tensor | None, add: bool, out: Tensor) -> None:
    before = out.double()
    want, size = x.double() @ matrix.double(), x.double().abs() @ matrix.double().abs() + 1
    for summand in (bias if bias is None else bias.double(), before if add else None):
        if summand is not None:
            want, size = want + summand, size + summand.abs()
    implementation(x, matrix, bias, add=add, out=out)
    assert ((out.double() - want).abs() <= size * torch.finfo(x.dtype).eps * (4 + len(matrix) ** 0.5)).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_worked_by_hand(implementation):
    x, matrix = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]])
    out = torch.full((1, 3), 100.0)
    implementation(x, matrix, torch.tensor([0.5, 0.0, -0.5]), out=out)
    assert out.tolist() == [[15.5, 18.0, 20.5]]
    implementation(x, matrix, add=True, out=out)
    assert out.tolist() == [[30.5, 36.0, 41.5]]


@settings(max_examples=60)
@given(
    M=st.integers(0, 40),
    K=st.integers(0, 70),
    N=st.integers(0, 70),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    biased=st.booleans(),
    add=st.booleans(),
    seed=st.integers(0, 2**32),
)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_any_sizes(implementation, M, K, N, dtype, biased, add, seed):
    x, matrix, bias, out = make_case(M, K, N, dtype, seed)
    assert_right(implementation, x, matrix, bias if biased else None, add, out)


@pytest.mark.parametrize("K", [383, 384, 385, 800])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_than_is_multiplied_at_a_time(K, dtype):
    x, matrix, bias, out = make_case(230, K, 50, dtype)
    assert_right(product, x, matrix, bias, False, out.clone())
    assert_right(product, x, matrix, bias, True, out)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_views(implementation):
    """Columns of wider tensors, every other row, one row for all; what lies between the columns of out stays."""
    x, matrix, bias, out = make_case(20, 30, 40)
    wide = out.clone()
    assert_right(implementation, x[::2, 3:13], matrix[::3, 5:25], bias[5:25], False, wide[::2, 10:30])
    untouched = torch.ones_like(out, dtype=torch.bool)
    untouched[::2, 10:30] = False
    assert torch.equal(wide[untouched], out[untouched])
    assert_right(implementation, x[:1].expand(20, 30), matrix, bias, False, out)


def test_a_row_has_the_same_bits_whatever_is_computed_with_it():
    x, matrix, bias, _ = make_case(500, 400, 100)
    threads = torch.get_num_threads()
    results = []
    try:
        for n, step in ((1, 500), (2, 500), (1, 1), (2, 7), (1, 113)):
            torch.set_num_threads(n)
            out = torch.empty(500, 100)
            for part, into in zip(x.split(step), out.split(step), strict=True):
                product(part, matrix, bias, out=into)
            results.append(out)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_nan_stays_in_its_row():
    x, matrix, _, out = make_case(30, 20, 40)
    x[7] = torch.nan
    product(x, matrix, out=out)
    assert out.isnan().all(1).nonzero().flatten().tolist() == [7]
    assert out[:7].isfinite().all()
    assert out[8:].isfinite().all()


def test_opcheck():
    x, matrix, bias, out = make_case(3, 4, 5)
    torch.library.opcheck(torch.ops.pilot.product, (x, matrix, bias), {"add": True, "out": out})


# Words: (which argument, what to make of it, exception, message)
WRONG = {
    "dim": (0, lambda x: x[0], ValueError, r"x must have shape \(M, K\), not \[4\]"),
    "depth": (1, lambda x: x[1:], ValueError, r"matrix must have shape \(K, N\) with K = 4, not \[3, 5\]"),
    "bias": (2, lambda x: x[1:], ValueError, r"bias must have shape \(N\) with N = 5, not \[4\]"),
    "out": (3, lambda x: x[1:], ValueError, r"out must have shape \(M, N\) with M = 3, not \[2, 5\]"),
    "dtype": (1, lambda x: x.double(), TypeError, "matrix must be float32 as x is, not float64"),
    "device": (2, lambda x: x.to("meta"), ValueError, "bias is on meta, but x is on cpu"),
    "stride": (
        1,
        lambda x: x.mT.contiguous().mT,
        ValueError,
        "matrix must be contiguous in its last dimension, not stride 4",
    ),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("wrong", WRONG)
def test_words_for_wrong_arguments(wrong, implementation):
    which, change, exception, message = WRONG[wrong]
    arguments = list(make_case(3, 4, 5))
    arguments[which] = change(arguments[which])
    with pytest.raises(exception, match=message):
        implementation(*arguments[:3], out=arguments[3])


def test_what_has_no_kernel_is_refused():
    x, matrix, _, out = make_case(3, 4, 5, torch.bfloat16)
    with pytest.raises(NotImplementedError, match="\"product\" not implemented for 'BFloat16'"):
        product(x, matrix, out=out)


def test_out_shares_no_memory():
    x, matrix, _, out = make_case(4, 4, 4)
    for inside in ((x, matrix, x), (x, matrix, matrix), (x, matrix, out[:1].expand(4, 4))):
        with pytest.raises(RuntimeError, match=r"unsupported operation: (some elements|more than one element)"):
            product(*inside[:2], out=inside[2])


def test_a_call_past_the_checks_is_safe():
    """torch.ops.pilot.product asserts what memory safety needs by itself."""
    x, matrix, bias, out = make_case(3, 4, 5)
    for arguments in ((x, matrix[1:], bias, out), (x, matrix, bias[1:], out), (x, matrix, bias, out.double())):
        with pytest.raises(RuntimeError, match="expected Float on cpu of shape"):
            torch.ops.pilot.product(*arguments[:3], out=arguments[3])
