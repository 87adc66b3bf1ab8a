"""patched_attention: every instruction set against the eager twin in float64, and every check's words."""

from __future__ import annotations

import math
from functools import partial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from support.operator_cases import assert_equivalent, each_capability, exact, make_case
from support.project import no_compiler

from pilot.arithmetic.vocabulary import VOCAB_SIZE
from pilot.errors import PilotError
from pilot.interventions import HeadPatch
from pilot.models import hooks
from pilot.models.attention import causal_attention as attention_written_out
from pilot.ops import build, causal_attention, eager_causal_attention, eager_patched_attention, patched_attention
from pilot.ops.checks import MAX_HEAD_DIM
from pilot.ops.dispatch import runs_fused

if reason := no_compiler():
    pytest.skip(reason, allow_module_level=True)

MODULE = build.load()
capability = each_capability()
REPLACED = ["no heads", "all heads", "some heads", "positions"]


def fused(case, **options):
    return patched_attention(*case.arguments, impl="fused", **options)


# Equivalence


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 22, 24, 25, 31, 33, 63, 64, 65, 127, 128, 129])
def test_lengths(T, dtype):
    for replaced in REPLACED:
        case = make_case(P=2, T=T, H=3, replaced=replaced, dtype=dtype, seed=T)
        assert_equivalent(fused(case), case)


@pytest.mark.parametrize("D", [1, 5, 8, 16, 32, 33, 64, 80, 128, 256])
def test_head_dims(D):
    for dtype in (torch.float32, torch.float64):
        case = make_case(T=19, D=D, dtype=dtype, seed=D)
        assert_equivalent(fused(case), case)


@pytest.mark.parametrize(("H", "H_kv"), [(1, 1), (2, 1), (4, 2), (6, 3), (12, 12), (12, 4), (12, 1)])
def test_grouped_query_heads(H, H_kv):
    case = make_case(T=17, H=H, H_kv=H_kv)
    assert_equivalent(fused(case), case)


@pytest.mark.parametrize(("Tq", "Tk"), [(1, 1), (1, 2), (1, 22), (3, 16), (16, 17), (20, 150), (1, 300), (130, 400)])
def test_queries_are_the_last_positions(Tq, Tk):
    case = make_case(T=Tq, Tk=Tk, replaced="positions")
    assert_equivalent(fused(case), case)
    # The same rows as those of the attention of all positions.
    whole = torch.cat([torch.zeros(3, Tk - Tq, 4, 32), case.q], dim=1)
    expected = attention_written_out(whole, case.k, case.v)[case.parent, Tk - Tq :]
    attended = ~case.replace
    torch.testing.assert_close(fused(case)[attended], expected[attended])


@pytest.mark.parametrize(("P", "C"), [(5, 0), (0, 0), (1, 9), (7, 3), (4, 64)])
def test_fan_out_and_unused_parents(P, C):
    case = make_case(P=P, C=C, T=6)
    assert_equivalent(fused(case), case)


def test_no_positions_no_heads():
    assert fused(make_case(T=0, Tk=3)).shape == (3, 0, 4, 32)
    assert fused(make_case(H=0)).shape == (3, 16, 0, 32)


@pytest.mark.parametrize("D", [30, 32])
def test_views(D):
    """Packed projections, transposed and sliced tensors, masks expanded from fewer values."""
    packed = make_case(T=13, D=D, packed=True)
    assert_equivalent(fused(packed), packed)
    case = make_case(P=4, T=13, D=D)
    heads_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (case.q, case.k, case.v, case.source)]
    views = case.having(q=heads_first[0], k=heads_first[1], v=heads_first[2], source=heads_first[3])
    assert torch.equal(fused(views), fused(case))
    wide = torch.cat([case.source, case.source], dim=-1)[..., :D]
    assert not wide.is_contiguous()
    mask = case.replace[:, :1].expand_as(case.replace)
    strided = case.having(source=wide, replace=mask, parent=case.parent.repeat_interleave(2)[::2])
    assert_equivalent(fused(strided), strided)


def test_scale():
    case = make_case()
    assert_equivalent(fused(case, scale=0.5), case, scale=0.5)
    assert_equivalent(fused(case, scale=-1.25), case, scale=-1.25)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_arguments(data):
    draw = data.draw
    H_kv = draw(st.integers(1, 3), "H_kv")
    T = draw(st.integers(1, 40), "T")
    case = make_case(
        P=draw(st.integers(1, 5), "P"),
        T=T,
        Tk=T + draw(st.integers(0, 40), "Tk - Tq"),
        H=H_kv * draw(st.integers(1, 4), "group"),
        H_kv=H_kv,
        D=draw(st.integers(1, 70), "D"),
        S=draw(st.integers(1, 4), "S"),
        C=draw(st.integers(0, 9), "C"),
        replaced=draw(st.sampled_from(REPLACED), "replaced"),
        dtype=draw(st.sampled_from([torch.float32, torch.float64]), "dtype"),
        seed=draw(st.integers(0, 2**32), "seed"),
    )
    assert_equivalent(fused(case), case)


def test_worked_by_hand():
    """One head of one number: scores 0 and log 3 weigh the values 1/4 and 3/4."""
    q, k = torch.ones(1, 2, 1, 1), torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)
    v, source = torch.tensor([4.0, 8.0]).view(1, 2, 1, 1), torch.full((1, 2, 1, 1), -5.0)
    replace = torch.tensor([[[False], [False]], [[False], [True]]])
    index = torch.zeros(2, dtype=torch.int64)
    z = patched_attention(q, k, v, source, index, index, replace, impl="fused")
    torch.testing.assert_close(z.flatten(), torch.tensor([4.0, 7.0, 4.0, -5.0]))


def test_patching_changes_only_what_it_should():
    case = make_case(replaced="some heads")
    plain = fused(case.having(replace=torch.zeros_like(case.replace)))
    patched = fused(case)
    assert not torch.equal(patched, plain)
    assert torch.equal(patched[~case.replace], plain[~case.replace])


# Numbers that are hard


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_replaced_heads_hide_their_arguments(name, bad):
    case = make_case(replaced="no heads", T=19)
    case.replace[:, :, 2] = True
    spoilt = getattr(case, name).clone()
    spoilt[:, :, 2] = bad
    assert torch.equal(fused(case.having(**{name: spoilt})), fused(case))


def test_later_keys_are_never_multiplied_in():
    case = make_case(replaced="no heads", T=19)
    k, v = case.k.clone(), case.v.clone()
    k[:, 11:], v[:, 11:] = math.nan, math.inf
    spoilt = fused(case.having(k=k, v=v))
    assert torch.equal(spoilt[:, :11], fused(case)[:, :11])
    assert spoilt[:, 11:].isnan().all()


def test_source_bits_survive():
    case = make_case(replaced="positions")
    source = torch.randint(-(2**31), 2**31 - 1, case.source.shape, dtype=torch.int32).view(torch.float32)
    case = case.having(source=source)  # any bits: NaN payloads, denormals, signed zeros
    taken = source[case.source_row][case.replace]
    assert torch.equal(fused(case)[case.replace].view(torch.int32), taken.view(torch.int32))


@pytest.mark.parametrize("T", [16, 200])
def test_large_logits(T):
    case = make_case(T=T, replaced="no heads")
    case = case.having(q=case.q * 100, k=case.k * 100)  # scores of more than 1e4 either side of 0
    z = fused(case)
    assert z.isfinite().all()
    # Two scores of 2e4 are known to float32 to within some 1e-3 of each other, and so are the weights of a near tie.
    assert_equivalent(z, case, floor=4e-3)


def test_a_first_block_of_minus_infinity_does_not_poison_the_rest():
    case = make_case(P=1, T=150, H=1, D=8, replaced="no heads")
    q, k = case.q.abs(), case.k.clone()
    k[:, :140] = -math.inf
    z = fused(case.having(q=q, k=k))
    assert z[:, :140].isnan().all()  # as softmax of nothing but -infinity
    expected = attention_written_out(q[:, 140:], k[:, 140:], case.v[:, 140:])
    torch.testing.assert_close(z[:, 140:], expected[case.parent])


def test_exp2_error(capability):
    """At most 1.3 units in the last place (1.1 with FMA) for normal results, exact at 0, 0 below, NaN for NaN."""
    for exp2, dtype, low, step in (
        (MODULE.exp2, torch.float32, -126, 2.0**-13),
        (MODULE.exp2_double, torch.float64, -1022, 2.0**-9),
    ):
        x = torch.arange(low, 0, step, dtype=dtype) + torch.rand(1, dtype=dtype) * step
        x = x[x <= 0]
        got = torch.tensor(exp2(x.tolist()), dtype=dtype)
        assert exp2([0.0, -1.0, -math.inf, low - 1.0]) == [1.0, 0.5, 0.0, 0.0]
        assert math.isnan(exp2([math.nan])[0])
        if dtype == torch.float32:  # torch.exp2 in float64 stands for the exact value
            ulp = torch.exp2(x.double().floor()) * 2.0**-23
            assert ((got.double() - torch.exp2(x.double())).abs() / ulp).max() <= (
                1.3 if capability == "generic" else 1.1
            )
        else:  # and for float64 is itself right to 1 unit
            assert ((got - torch.exp2(x)).abs() / (torch.exp2(x.floor()) * 2.0**-52)).max() <= 2.1


@pytest.mark.parametrize("shape", [{"P": 32, "C": 80, "T": 40}, {"P": 1, "C": 3, "T": 333, "H": 1}], ids=str)
def test_threads_do_not_change_bits(shape):
    case = make_case(**shape, replaced="positions")
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(fused(case))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(z, results[0]) for z in results)


# Calling it


def test_out():
    case = make_case(C=5)
    out = torch.full((5, 16, 4, 32), math.nan)
    for impl in ("fused", "eager"):
        assert patched_attention(*case.arguments, impl=impl, out=out) is out
        assert_equivalent(out, case)


def test_implementations():
    case = make_case()
    assert runs_fused("auto")
    assert runs_fused("fused")
    assert not runs_fused("eager")
    assert not runs_fused("auto", case.q.half())
    assert torch.equal(patched_attention(*case.arguments), fused(case))
    with pytest.raises(PilotError, match="impl must be auto, fused or eager, not 'fast'"):
        patched_attention(*case.arguments, impl="fast")
    with pytest.raises(PilotError, match="does not compute in float16 on cpu"):
        fused(case.to(torch.float16))
    assert_equivalent(eager_patched_attention(*case.arguments), case)


def test_gradients_are_eagers():
    case = make_case()
    q = case.q.clone().requires_grad_()
    case = case.having(q=q)
    patched_attention(*case.arguments).square().sum().backward()
    assert q.grad.isfinite().all()
    assert not runs_fused("auto", q)
    with pytest.raises(PilotError, match=r"the fused operator has no gradient: use torch\.no_grad\(\)"):
        fused(case)
    with pytest.raises(PilotError, match="writes no gradients into out"):
        patched_attention(*case.arguments, out=torch.empty_like(case.source))
    with torch.no_grad():
        assert runs_fused("auto", q)


def test_opcheck():
    case = make_case(C=5, replaced="positions")
    out = torch.empty(5, 16, 4, 32)
    torch.library.opcheck(torch.ops.pilot.patched_attention, case.arguments, {"scale": 0.3, "out": out})


@pytest.mark.parametrize("with_out", [False, True])
def test_compiles_without_a_graph_break(with_out):
    case = make_case()
    out = torch.empty(3, 16, 4, 32) if with_out else None

    @torch.compile(fullgraph=True, backend="aot_eager")
    def double(*arguments):
        return 2 * patched_attention(*arguments, out=out)

    with torch.no_grad():
        assert torch.equal(double(*case.arguments), 2 * fused(case))


# Words: (what to change, exception, message)
WRONG = {
    "q dim": ({"q": lambda x: x[0]}, ValueError, r"q must have shape \(P, Tq, H, D\), not \[16, 4, 32\]"),
    "k dim": ({"k": lambda x: x[0]}, ValueError, r"k must have shape \(P, Tk, H_kv, D\), not"),
    "parent dim": ({"parent": lambda x: x[None]}, ValueError, r"parent must have shape \(C\), not \[1, 3\]"),
    "source dim": ({"source": lambda x: x[0]}, ValueError, r"source must have shape \(S, Tq, H, D\), not"),
    "k rows": (
        {"k": lambda x: x[1:]},
        ValueError,
        r"k must have shape \(P, Tk, H_kv, D\) with P = 3, not \[2,",
    ),
    "v shape": (
        {"v": lambda x: x[:, 1:]},
        ValueError,
        r"v must have shape .* with Tk = 16, not \[3, 15, 4, 32\]",
    ),
    "source shape": (
        {"source": lambda x: x[:, :, 1:]},
        ValueError,
        r"source must have shape \(S, Tq, H, D\) with H = 4, not",
    ),
    "source_row shape": (
        {"source_row": lambda x: x[1:]},
        ValueError,
        r"source_row must have shape \(C\) with C = 3, not \[2\]",
    ),
    "replace shape": (
        {"replace": lambda x: x[:, 1:]},
        ValueError,
        r"replace must have shape \(C, Tq, H\) with Tq = 16, not",
    ),
    "few keys": (
        {"k": lambda x: x[:, 1:], "v": lambda x: x[:, 1:]},
        ValueError,
        "k has 15 positions, fewer than the 16 of q: queries are the last Tq of Tk",
    ),
    "head groups": (
        {"k": lambda x: x[:, :, 1:], "v": lambda x: x[:, :, 1:]},
        ValueError,
        "q has 4 heads, not a multiple of the 3 of k and v",
    ),
    "head_dim": (
        {name: lambda x: x.repeat(1, 1, 1, 9) for name in ("q", "k", "v", "source")},
        ValueError,
        f"head_dim must be 1 to {MAX_HEAD_DIM}, not 288",  # the operator has a constant of its own
    ),
    "k dtype": ({"k": lambda x: x.double()}, TypeError, "k must be float32 as q is, not float64"),
    "source dtype": ({"source": lambda x: x.half()}, TypeError, "source must be float32 as q is, not float16"),
    "parent dtype": ({"parent": lambda x: x.int()}, TypeError, "parent must be int64, not int32"),
    "source_row dtype": ({"source_row": lambda x: x.int()}, TypeError, "source_row must be int64, not int32"),
    "replace dtype": ({"replace": lambda x: x.byte()}, TypeError, "replace must be bool, not uint8"),
    "q stride": (
        {"q": lambda x: x.mT.contiguous().mT},
        ValueError,
        "q must be contiguous in its last dimension, not stride 4",
    ),
    "v stride": (
        {"v": lambda x: x.mT.contiguous().mT},
        ValueError,
        "v must be contiguous in its last dimension, not stride 4",
    ),
    "no parents": (
        {name: lambda x: x[:0] for name in ("q", "k", "v")},
        IndexError,
        "parent has 3 entries, but q has no rows",
    ),
    "no donors": ({"source": lambda x: x[:0]}, IndexError, "source_row has 3 entries, but source has no rows"),
    "parent high": ({"parent": lambda x: torch.tensor([0, 3, 1])}, IndexError, r"parent\[1\] is 3, but q has 3 rows"),
    "parent low": ({"parent": lambda x: torch.tensor([0, 1, -1])}, IndexError, r"parent\[2\] is -1, but q has 3 rows"),
    "source_row high": ({"source_row": lambda x: x + 9}, IndexError, r"source_row\[0\] is \d+, but source has 3 rows"),
}
WRONG_VALUES = ("parent high", "parent low", "source_row high")


@pytest.mark.parametrize("impl", ["fused", "eager"])
@pytest.mark.parametrize("wrong", WRONG)
def test_words_for_wrong_arguments(wrong, impl):
    changes, exception, message = WRONG[wrong]
    case = make_case()
    case = case.having(**{name: change(getattr(case, name)) for name, change in changes.items()})
    with pytest.raises(exception, match=message):
        patched_attention(*case.arguments, impl=impl, out=torch.empty(3, *case.q.shape[1:]))
    if wrong not in WRONG_VALUES:  # tracing has no values to look at
        arguments, out = (x.to("meta") for x in case.arguments), torch.empty(3, *case.q.shape[1:], device="meta")
        with pytest.raises(exception, match=message):
            torch.ops.pilot.patched_attention(*arguments, out=out)


@pytest.mark.parametrize("impl", ["fused", "eager"])
def test_words_for_wrong_out(impl):
    case = make_case()
    for out, exception, message in (
        (torch.empty(3, 16, 4, 31), ValueError, r"out must have shape \(C, Tq, H, D\) with D = 32, not"),
        (torch.empty(3, 16, 4, 32, dtype=torch.float64), TypeError, "out must be float32 as q is, not float64"),
        (torch.empty(3, 16, 4, 32, device="meta"), ValueError, "out is on meta, but q is on cpu"),
        (torch.empty(3, 4, 16, 32).transpose(1, 2), ValueError, "out must be contiguous, not strides"),
    ):
        with pytest.raises(exception, match=message):
            patched_attention(*case.arguments, impl=impl, out=out)


def test_other_words_of_the_operator():
    case = make_case()
    with pytest.raises(ValueError, match="scale must be finite, not nan"):
        fused(case, scale=math.nan)
    with pytest.raises(ValueError, match="scale must be finite, not inf"):
        eager_patched_attention(*case.arguments, scale=math.inf)
    half = case.to(torch.bfloat16)
    with pytest.raises(NotImplementedError, match="\"patched_attention\" not implemented for 'BFloat16'"):
        torch.ops.pilot.patched_attention(*half.arguments, out=torch.empty_like(half.source))
    with pytest.raises(ValueError, match="k is on meta, but q is on cpu"):
        eager_patched_attention(*case.having(k=case.k.to("meta")).arguments)
    for name in ("q", "k", "v", "source"):
        with pytest.raises(RuntimeError, match="unsupported operation: some elements of the input tensor and the"):
            fused(case, out=getattr(case, name))
    with pytest.raises(
        ValueError, match=r"this CPU has no instruction set 'mmx' \(PILOT_CPU_CAPABILITY\): it has generic"
    ):
        MODULE.use_capability("mmx")
    expected = exact(case)
    assert expected.dtype == torch.float64


def test_a_call_past_the_checks_is_safe():
    """torch.ops.pilot.patched_attention asserts what memory safety needs by itself."""
    case, out = make_case(), torch.empty(3, 16, 4, 32)
    for wrong in (
        case.having(v=case.v[:, 1:]),
        case.having(replace=case.replace[1:]),
        case.having(parent=case.parent.int()),
        case.having(source=case.source.double()),
    ):
        with pytest.raises(RuntimeError, match=r"expected \w+ on cpu of shape"):
            torch.ops.pilot.patched_attention(*wrong.arguments, out=out)
    with pytest.raises(RuntimeError, match="expected a contiguous out"):
        torch.ops.pilot.patched_attention(*case.arguments, out=torch.empty(3, 4, 16, 32).transpose(1, 2))


@torch.no_grad()
def test_a_patched_forward_of_the_pilot(small_model):
    """Handed over as a function, it patches what hooks patch."""
    recipient, donor = torch.randint(VOCAB_SIZE, (2, 3, 7), generator=torch.Generator().manual_seed(0))
    z = hooks.head_outputs(small_model, donor)
    with hooks.replaced(small_model, (HeadPatch(1, 0, 2, 6),), z):
        expected = small_model(recipient)
    attn = small_model.blocks[1].attn
    attn.patched_attention = partial(patched_attention, impl="fused")
    attn.patch_head_index, attn.patch_head_output, attn.patch_positions = 0, z[1][:, :, 0], slice(2, 6)
    torch.testing.assert_close(small_model(recipient), expected)


# Plain attention, by the same kernel


@pytest.mark.parametrize("implementation", [causal_attention, eager_causal_attention])
@pytest.mark.parametrize(("T", "Tk", "H", "H_kv"), [(16, 16, 4, 4), (3, 20, 6, 2), (0, 3, 4, 4)])
def test_causal_attention(implementation, T, Tk, H, H_kv):
    case = make_case(T=T, Tk=Tk, H=H, H_kv=H_kv)
    out = torch.full_like(case.q, math.nan)
    assert implementation(case.q, case.k, case.v, scale=0.3, out=out) is None
    torch.testing.assert_close(out, attention_written_out(case.q, case.k, case.v, scale=0.3))


@pytest.mark.parametrize("implementation", [causal_attention, eager_causal_attention])
def test_words_of_causal_attention(implementation):
    case = make_case()
    out = torch.empty_like(case.q)
    for k, into, message in (
        (case.k[:, 1:], out, r"v must have shape .* with Tk = 15, not"),
        (case.k, out[1:], r"out must have the shape of q, \[3, 16, 4, 32\], not \[2,"),
        (case.k, out.mT.contiguous().mT, "out must be contiguous in its last dimension"),
    ):
        with pytest.raises(ValueError, match=message):
            implementation(case.q, k, case.v, scale=1.0, out=into)


def test_opcheck_of_causal_attention():
    case = make_case()
    arguments = (case.q, case.k, case.v)
    torch.library.opcheck(torch.ops.pilot.causal_attention, arguments, {"scale": 0.3, "out": torch.empty_like(case.q)})
