"""branched_attention: every instruction set and the eager twin against a loop in float64, and every check's words."""

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

from pilot.ops import branched_attention, eager_branched_attention

if reason := no_compiler():
    pytest.skip(reason, allow_module_level=True)

capability = each_capability()
IMPLEMENTATIONS = [branched_attention, eager_branched_attention]
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-14}


@dataclass
class Case:
    """The operator's arguments."""

    q: Tensor
    k: Tensor
    v: Tensor
    base_k: Tensor
    base_v: Tensor
    start: int
    first: int
    scale: float
    eps: float | None

    @property
    def arguments(self) -> tuple:
        return tuple(vars(self).values())

    def having(self, **changes) -> Case:
        return replace(self, **changes)

    def to(self, to: torch.dtype | str) -> Case:
        return self.having(**{name: x.to(to) for name, x in vars(self).items() if isinstance(x, Tensor)})


def make_case(
    N: int = 2,
    B: int = 3,
    Q: int = 2,
    W: int = 5,
    E: int = 12,
    H: int = 6,
    H_kv: int = 2,
    D: int = 32,
    start: int = 4,
    first: int = 9,
    eps: float | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    k = normal(N, B, W, H_kv, D)
    v = k if eps is not None else normal(N, B, W, H_kv, D)
    base_k = normal(B, E, H_kv, D)
    base_v = base_k if eps is not None else normal(B, E, H_kv, D)
    return Case(normal(N, B, Q, H, D), k, v, base_k, base_v, start, first, D**-0.5, eps)


def run(case: Case, implementation=branched_attention) -> Tensor:
    out = torch.full_like(case.q, math.nan)
    implementation(*case.arguments, out=out)
    return out


def exact(case: Case) -> Tensor:
    """Query by query, in float64, of keys that are chosen one by one."""
    q, k, v, base_k, base_v, start, first, scale, eps = case.to(torch.float64).arguments
    rms = 1 if eps is None else (k.square().mean(-1, keepdim=True) + eps).sqrt()
    own_k, own_v = k / rms, v / rms
    out = torch.zeros_like(q)
    N, B, Q, H, _ = q.shape
    for n, b, h in ((n, b, h) for n in range(N) for b in range(B) for h in range(H)):
        g = h // (H // k.shape[3])
        own = [start <= j < start + k.shape[2] for j in range(first + Q)]
        keys, values = (
            [mine[n, b, j - start, g] if own[j] else base[b, j, g] for j in range(first + Q)]
            for mine, base in ((own_k, base_k), (own_v, base_v))
        )
        for i in range(Q):
            seen = first + i + 1
            out[n, b, i, h] = (torch.stack(keys[:seen]) @ q[n, b, i, h] * scale).softmax(0) @ torch.stack(values[:seen])
    return out


def assert_right(case: Case, implementation=branched_attention) -> None:
    got, want = run(case, implementation), exact(case)
    assert got.dtype == case.q.dtype
    torch.testing.assert_close(got.double(), want, atol=TOLERANCE[case.q.dtype], rtol=TOLERANCE[case.q.dtype])


# Equivalence


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_worked_by_hand(implementation):
    """One query at position 1 of key 0, which is shared, and key 1, the node's own: weights 3/4 and 1/4."""
    case = Case(
        q=torch.tensor([math.log(3.0), 5.0]).view(1, 1, 1, 1, 2),
        k=torch.tensor([0.0, 0.0]).view(1, 1, 1, 1, 2),
        v=torch.tensor([4.0, 8.0]).view(1, 1, 1, 1, 2),
        base_k=torch.tensor([[2.0, 0.0], [9.0, 9.0], [9.0, 9.0]]).view(1, 3, 1, 2),
        base_v=torch.tensor([[40.0, 0.0], [9.0, 9.0], [9.0, 9.0]]).view(1, 3, 1, 2),
        start=1,
        first=1,
        scale=0.5,
        eps=None,
    )
    torch.testing.assert_close(run(case, implementation).flatten(), torch.tensor([31.0, 2.0]))
    # The own key (3, 1) has mean square 5: divided by its root it is (3, 1) / sqrt(5), and so is the value.
    x, base = torch.tensor([3.0, 1.0]).view(1, 1, 1, 1, 2), torch.zeros(1, 3, 1, 2)
    absorbed = case.having(q=torch.zeros(1, 1, 1, 1, 2), k=x, v=x, base_k=base, base_v=base, eps=0.0)
    want = torch.tensor([3.0, 1.0]) / (2 * 5**0.5)
    torch.testing.assert_close(run(absorbed, implementation).flatten(), want)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("D", [1, 3, 8, 16, 24, 33, 64, 80, 128, 300])
def test_head_dims(D, dtype):
    for implementation in IMPLEMENTATIONS:
        assert_right(make_case(1, D=D, dtype=dtype, seed=D), implementation)
        assert_right(make_case(1, H_kv=1, D=D, eps=1e-5, dtype=dtype, seed=D), implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("H", "H_kv"), [(1, 1), (2, 1), (3, 1), (4, 1), (6, 3), (7, 1), (12, 12), (9, 3)])
def test_grouped_query_heads(H, H_kv, implementation):
    assert_right(make_case(H=H, H_kv=H_kv), implementation)
    assert_right(make_case(H=H, H_kv=H_kv, Q=1, first=11), implementation)


@settings(max_examples=25)
@given(data=st.data(), dtype=st.sampled_from(list(TOLERANCE)), seed=st.integers(0, 2**32))
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_any_arguments(implementation, data, dtype, seed):
    sizes = {name: data.draw(st.integers(0, 3), name) for name in "NB"}
    E = data.draw(st.integers(0, 40), "E")
    W, Q = data.draw(st.integers(0, E), "W"), data.draw(st.integers(0, min(E, 6)), "Q")
    start, first = data.draw(st.integers(0, E - W), "start"), data.draw(st.integers(0, E - Q), "first")
    H_kv = data.draw(st.integers(1, 3), "H_kv")
    H, D = H_kv * data.draw(st.integers(0, 5), "group"), data.draw(st.integers(1, 40), "D")
    eps = data.draw(st.sampled_from([None, 1e-5]), "eps")
    case = make_case(
        **sizes, Q=Q, W=W, E=E, H=H, H_kv=H_kv, D=D, start=start, first=first, eps=eps, dtype=dtype, seed=seed
    )
    assert_right(case, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_views(implementation):
    """Keys and values side by side in one tensor, windows of longer ones, a pair's keys for all pairs."""
    case = make_case(Q=5, W=8, E=20)
    kv, base = torch.stack([case.k, case.v], dim=3), torch.stack([case.base_k, case.base_v], dim=2)[:1]
    views = case.having(
        q=case.q.transpose(2, 3).contiguous().transpose(2, 3)[:, :, 1:3],
        k=kv[:, :, 2:7, 0],
        v=kv[:, :, 2:7, 1],
        base_k=base[:, :12, 0].expand(3, -1, -1, -1),
        base_v=base[:, :12, 1].expand(3, -1, -1, -1),
    )
    same = views.having(**{name: x.contiguous() for name, x in vars(views).items() if isinstance(x, Tensor)})
    want = run(same, implementation)
    assert torch.equal(run(views, implementation), want)
    assert_right(views, implementation)
    wide = torch.zeros(2, 3, 2, 7, 40)
    implementation(*views.arguments, out=wide[..., :6, 4:36])
    assert torch.equal(wide[..., :6, 4:36], want)
    assert (wide[..., 6, :] == 0).all()


def test_threads_do_not_change_bits():
    case = make_case(N=40, B=10, H=9, H_kv=3, D=64)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(run(case))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_later_key_does_not_reach_a_query(bad):
    """Key 10 is seen by the second of the queries at 9 and 10, key 11 by none; another head's is its own."""
    case = make_case(W=8)
    k, v = case.k.clone(), case.v.clone()
    for x in (k, v):
        x[1, 2, 6, 1] = bad  # position 10 of a node, a pair and a key and value head
        x[0, :, 7] = bad
    got, want = run(case.having(k=k, v=v)), run(case)
    assert got[1, 2, 1, 3:].isnan().any(-1).all()
    got[1, 2, 1, 3:] = want[1, 2, 1, 3:]
    assert torch.equal(got, want)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_scores_of_minus_infinity_and_large_ones(implementation):
    case = make_case(Q=1)
    base_k = case.base_k.clone()
    base_k[:, :3] = -1e30
    q = case.q.abs()
    assert_right(case.having(base_k=base_k, q=q, scale=1.0), implementation)
    base_k[:, :3] = -math.inf
    assert_right(case.having(base_k=base_k, q=q), implementation)


# Calling it


def test_opcheck():
    for case in (make_case(), make_case(eps=1e-5, H_kv=1)):
        torch.library.opcheck(
            torch.ops.pilot.branched_attention, case.arguments, {"out": torch.empty_like(case.q)}
        )  # fmt: skip


def test_what_has_no_kernel_is_refused():
    with pytest.raises(NotImplementedError, match="\"branched_attention\" not implemented for 'Half'"):
        run(make_case().to(torch.float16))


# Words: (what to change, exception, message)
WRONG = {
    "q dim": ({"q": lambda x: x[0]}, ValueError, r"q must have shape \(N, B, Q, H, D\), not \[3, 2, 6, 32\]"),
    "k": (
        {"k": lambda x: x[1:]},
        ValueError,
        r"k must have shape \(N, B, W, H_kv, D\) with N = 2, not \[1, 3, 5, 2, 32\]",
    ),
    "v": (
        {"v": lambda x: x[:, :, 1:]},
        ValueError,
        r"v must have shape \(N, B, W, H_kv, D\) with W = 5, not \[2, 3, 4",
    ),
    "base_k": (
        {"base_k": lambda x: x[1:]},
        ValueError,
        r"base_k must have shape \(B, E, H_kv, D\) with B = 3, not \[2",
    ),
    "base_v": (
        {"base_v": lambda x: x[:, 1:]},
        ValueError,
        r"base_v must have shape \(B, E, H_kv, D\) with E = 12, not",
    ),
    "heads": ({"q": lambda x: x[:, :, :, 1:]}, ValueError, r"q has 5 heads, not a multiple of the 2 of k and v"),
    "start": ({"start": lambda _: 8}, ValueError, "k has positions 8 to 12, but base_k has 12"),
    "start below 0": ({"start": lambda _: -1}, ValueError, "k has positions -1 to 3, but base_k has 12"),
    "first": ({"first": lambda _: 11}, ValueError, "q has positions 11 to 12, but base_k has 12"),
    "scale": ({"scale": lambda _: math.nan}, ValueError, "scale must be finite, not nan"),
    "eps": ({"eps": lambda _: -1.0}, ValueError, "eps must be finite and not negative, not -1.0"),
    "dtype": ({"v": lambda x: x.double()}, TypeError, "v must be float32 as q is, not float64"),
    "device": ({"base_v": lambda x: x.to("meta")}, ValueError, "base_v is on meta, but q is on cpu"),
    "stride": (
        {"k": lambda x: x.mT.contiguous().mT},
        ValueError,
        "k must be contiguous in its last dimension, not stride 2",
    ),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("wrong", WRONG)
def test_words_for_wrong_arguments(wrong, implementation):
    changes, exception, message = WRONG[wrong]
    case = make_case()
    case = case.having(**{name: change(getattr(case, name)) for name, change in changes.items()})
    with pytest.raises(exception, match=message):
        implementation(*case.arguments, out=torch.empty_like(case.q))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_words_for_a_wrong_result(implementation):
    case = make_case()
    with pytest.raises(ValueError, match=r"out must have shape \(N, B, Q, H, D\) with N = 2, not \[1, 3, 2, 6, 32\]"):
        implementation(*case.arguments, out=torch.empty_like(case.q)[1:])


def test_out_shares_no_memory():
    case = make_case()
    with pytest.raises(RuntimeError, match="unsupported operation: some elements of the input"):
        branched_attention(*case.arguments, out=case.q)


def test_a_call_past_the_checks_is_safe():
    """torch.ops.pilot.branched_attention asserts what memory safety needs by itself."""
    case = make_case()
    for changes in (
        {"v": case.v[:, :, 1:]},
        {"base_v": case.base_v[:, 1:]},
        {"first": 11},
        {"start": 8},
        {"start": -1},
    ):
        with pytest.raises(RuntimeError):
            torch.ops.pilot.branched_attention(*case.having(**changes).arguments, out=torch.empty_like(case.q))
