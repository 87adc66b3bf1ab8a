"""The CUDA operators on a GPU: the cases of test_cuda_emulation.py and larger ones, streams, graphs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from support import branched_mlp_cases as mlp
from support.cuda_cases import CASES, DTYPES, Case, arguments, check, check_first_keys_of_minus_infinity
from support.project import ROOT
from support.tiny_models import MODELS, VOCAB, tiny_model

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU here: the kernels' logic runs in test_cuda_emulation.py", allow_module_level=True)

from pilot.interventions import head_subsets, single_heads, single_positions
from pilot.ops import branched_mlp, build, causal_attention, patched_attention
from pilot.ops.toolchain import library
from pilot.sweep import SweepEngine

LARGE = [
    Case(16, 16, 4, 4, 32, parents=4096, children=4096, layout="packed"),
    Case(16, 16, 4, 4, 32, parents=256, children=20000, replaced="heads", layout="packed"),
    Case(22, 22, 4, 4, 32, parents=1, children=3000),
    Case(512, 512, 12, 4, 64, parents=4, children=8, replaced="heads", layout="packed"),
    Case(1024, 1024, 4, 4, 128, parents=2, children=2, replaced="positions"),
    Case(300, 1000, 2, 2, 256, parents=2, children=2),
]


@pytest.fixture(scope="module")
def operator():
    build.load("cuda")
    return partial(patched_attention, impl="fused")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES + LARGE, ids=str)
def test_same_as_eager(operator, case, dtype):
    a = arguments(case, dtype, "cuda")
    z = operator(**a)
    check(z, a)
    out = torch.full_like(z, float("nan"))
    operator(**a, out=out)
    assert torch.equal(out, z)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [16, 90])
@pytest.mark.parametrize("scale", [0.0, -0.3, 1.7])
def test_scale(operator, tokens, dtype, scale):
    a = arguments(Case(tokens, tokens, 2, 2, 32), dtype, "cuda")
    check(operator(**a, scale=scale), a, scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [16, 90])
def test_nan_in_a_replaced_head_stays_there(operator, tokens, dtype):
    a = arguments(Case(tokens, tokens, 4, 4, 32, replaced="none"), dtype, "cuda")
    expected = operator(**a)
    a["replace"][:, :, 1] = True
    expected[:, :, 1] = a["source"][a["source_row"]][:, :, 1]
    for name, bad in (("q", float("nan")), ("k", float("inf")), ("v", float("nan"))):
        a[name][:, :, 1] = bad
    assert torch.equal(operator(**a), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "n"), [(20, 12), (90, 70)])
def test_first_keys_of_minus_infinity(operator, tokens, n, dtype):
    a = arguments(Case(tokens, tokens, 2, 2, 32, replaced="none"), dtype, "cuda")
    check_first_keys_of_minus_infinity(operator, n, a)


def test_same_bits_every_time(operator):
    a = arguments(Case(16, 16, 4, 4, 32, parents=64, children=20000), torch.float32, "cuda")
    first = operator(**a)
    for _ in range(10):
        assert torch.equal(operator(**a), first)


def test_empty(operator):
    a = arguments(Case(4, 4, 2, 2, 8, children=0), torch.float32, "cuda")
    assert operator(**a).shape == (0, 4, 2, 8)


GRAPHS = [Case(16, 16, 4, 4, 32), Case(16, 16, 4, 4, 32, children=20000), Case(130, 130, 2, 2, 64)]


@pytest.mark.parametrize("case", GRAPHS, ids=str)
def test_in_a_graph_with_new_values(operator, case):
    """Nothing about the values of the arguments is decided when the graph is captured."""
    a = arguments(case, torch.bfloat16, "cuda")
    out = operator(**a)  # loads the kernels: not allowed while capturing
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        operator(**a, out=out)
    torch.manual_seed(7)
    for name in ("q", "k", "v"):
        a[name].normal_()
    a["parent"].random_(case.parents)
    a["replace"].random_(2)
    graph.replay()
    check(out, a)


def test_on_another_stream(operator):
    a = arguments(Case(16, 16, 4, 4, 32, parents=512, children=512), torch.float32, "cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        z = operator(**a)
    stream.synchronize()
    check(z, a)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [Case(4, 22, 4, 2, 32), Case(90, 90, 2, 2, 32), Case(3, 90, 4, 2, 32)], ids=str)
def test_causal_attention(operator, case, dtype):
    a = arguments(case, dtype, "cuda")
    z = torch.empty_like(a["q"], memory_format=torch.contiguous_format)
    causal_attention(a["q"], a["k"], a["v"], scale=0.3, out=z)
    row = torch.arange(len(z), device="cuda")
    unpatched = {"source": a["q"], "parent": row, "source_row": row}
    check(z, a | unpatched | {"replace": torch.zeros(z.shape[:3], dtype=torch.bool, device="cuda")}, 0.3)


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES], ids=str)
@pytest.mark.parametrize("activation", mlp.ACTIVATIONS)
def test_branched_mlp(operator, activation, dtype):
    for sizes in (
        {},
        {"d": 130, "m": 257, "biased": False},
        {"K": 0},
        {"C": 0},
        {"by_row": False},
        {"N": 1, "C": 40, "B": 64, "d": 128, "m": 1536},  # made in several parts
    ):
        case = mlp.make_case(**sizes, activation=activation, dtype=dtype)
        on_gpu = case.to("cuda").having(member=case.member)
        out = on_gpu.out()
        branched_mlp(*on_gpu.arguments, out=out)
        mlp.assert_close_to_exact(out.cpu(), case)


@pytest.mark.parametrize("impl", ["fused", "eager"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_sweep_is_what_hooks_give(operator, name, impl):
    model = tiny_model(name).cuda()
    recipient, donor = torch.randint(VOCAB, (2, 5, 9), generator=torch.Generator().manual_seed(0))
    donor[0, :4] = recipient[0, :4]
    heads = [head for (head,) in single_heads(model)]
    patches = [*single_heads(model), *single_positions(model, 9)[::3], *head_subsets(heads[:4])]
    read = torch.full((5, 1), 8)
    expected = SweepEngine(model, "reference").run(recipient, donor, patches, read=read)
    found = SweepEngine(model, impl).run(recipient, donor, patches, read=read)
    assert (found - expected).abs().max() < 1e-4 * expected.std()


# What programs of a process of their own begin with.
START = """
import sys
sys.path.insert(0, {tests!r})
from support import branched_mlp_cases as mlp
from support.cuda_cases import *
from pilot.ops import build
build.load("cuda")
"""

OUT_OF_RANGE = (
    START
    + """
a = arguments(Case(4, 4, 2, 2, 8), torch.float32, "cuda")
a[{name!r}][3] = {value}
patched_attention(**a, impl="fused")
torch.cuda.synchronize()
"""
)


@pytest.mark.parametrize(("name", "value"), [("parent", 3), ("parent", -1), ("source_row", 2), ("source_row", -1)])
def test_an_index_out_of_range_stops_the_device(operator, request, name, value):
    code = OUT_OF_RANGE.format(tests=str(ROOT / "tests"), name=name, value=value)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"an entry of {name} is out of range" in done.stdout + done.stderr
    assert "device-side assert" in done.stderr


UNDER_A_CHECKER = (
    START
    + """
for case in CASES:
    for dtype in DTYPES:
        a = arguments(case, dtype, "cuda")
        check(patched_attention(**a, impl="fused"), a)
for activation in mlp.ACTIVATIONS:
    case = mlp.make_case(activation=activation)
    on_gpu = case.to("cuda").having(member=case.member)
    out = on_gpu.out()
    branched_mlp(*on_gpu.arguments, out=out)
    mlp.assert_close_to_exact(out.cpu(), case)
"""
)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(operator, request, tool):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=library("cuda").cuda_home / "bin"
    )
    if sanitizer is None:
        pytest.skip("compute-sanitizer, of the CUDA toolkit, is not installed")
    options = ["--tool", tool, "--error-exitcode", "9", "--kernel-name", "kernel_substring=pilot"]
    options += ["--report-api-errors", "no"]  # PyTorch asks drivers for functions they lack; ours raise in Python
    program = [sys.executable, "-c", UNDER_A_CHECKER.format(tests=str(ROOT / "tests"))]
    # Without PyTorch's cache of memory each tensor ends where its allocation ends, and overruns are seen.
    env = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run([sanitizer, *options, *program], capture_output=True, text=True, env=env)
    if "Device not supported" in done.stdout + done.stderr:
        pytest.skip("compute-sanitizer does not support this machine's GPU or its virtualisation")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
