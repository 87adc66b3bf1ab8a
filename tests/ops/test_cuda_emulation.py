"""The logic of the CUDA kernels, run on a CPU by tests/cuda_emulation (which says what that can show, and what not)."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support import branched_mlp_cases as mlp
from support.cuda_cases import CASES, DTYPES, Case, arguments, check, check_first_keys_of_minus_infinity, eager
from support.project import ROOT

import pilot.ops  # noqa: F401 (it defines torch.ops.pilot)

if torch.cuda.is_available():
    pytest.skip("a GPU is here, and runs the kernels themselves: test_cuda.py", allow_module_level=True)

CSRC = ROOT / "csrc"
EMULATION = ROOT / "tests" / "support" / "cuda_emulation"
FLAGS = ["-std=c++20", "-fPIC", "-fno-strict-aliasing", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
KERNEL_FLAGS = [
    *("-O2", "-fsanitize=undefined", "-fno-sanitize-recover=all"),
    *("-Wno-maybe-uninitialized", "-Wno-class-memaccess"),
]


def cuda_headers() -> Path | None:
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", nvcc and Path(nvcc).resolve().parent.parent]
    return next((Path(h) / "include" for h in homes if h and (Path(h) / "include" / "cuda_fp16.h").exists()), None)


def build(folder: Path) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the emulation with")
    if cuda_headers() is None:
        pytest.skip("no CUDA headers (cuda_fp16.h) for the emulation: install the CUDA toolkit, or set CUDA_HOME")
    from torch.utils import cpp_extension

    includes = [f"-I{EMULATION}", f"-I{CSRC}", "-isystem", str(cuda_headers())]
    pytorch = [f"-isystem{folder}" for folder in cpp_extension.include_paths()]

    def compile(source: Path) -> str:
        target = folder / f"{source.name}.o"
        kernels = source.suffix == ".cu" or source.parent == EMULATION
        flags = [*KERNEL_FLAGS, "-include", str(EMULATION / "device.h")] if kernels else ["-O1", *pytorch]
        command = [compiler, *FLAGS, *includes, *flags, "-x", "c++", "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{source.name}:\n{done.stderr}"
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile, [*CSRC.rglob("*.cu"), *CSRC.rglob("*_cuda.cpp"), EMULATION / "emulation.cpp"]))
    library = folder / "libpilot_emulation.so"
    # -Bsymbolic: its own CUDA functions, not those of the CUDA runtime that a PyTorch with CUDA has loaded.
    link = [compiler, "-shared", "-Wl,-Bsymbolic", "-fsanitize=undefined"]
    pytorch = [f"-L{folder}" for folder in cpp_extension.library_paths()]
    subprocess.run([*link, *objects, *pytorch, "-ltorch_cpu", "-lc10", "-o", str(library)], check=True)
    return library


class Emulation:
    """The library for CUDA, on tensors of the CPU: its kernels are reached as if those were on a GPU."""

    def __init__(self, path: Path):
        self.path = path
        torch.ops.load_library(path)
        self.library = ctypes.CDLL(str(path))

    def call(self, name: str, *arguments: object, **options: object) -> None:
        cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
        getattr(torch.ops.pilot, name).default.redispatch(cuda, *arguments, **options)

    def __call__(self, a: dict[str, torch.Tensor], scale: float | None = None) -> torch.Tensor:
        z = torch.full((len(a["parent"]), *a["q"].shape[1:]), math.nan, dtype=a["q"].dtype)
        self.call("patched_attention", *a.values(), scale=scale, out=z)
        return z

    def largest_shared(self, a: dict[str, torch.Tensor], shared_per_multiprocessor: int) -> int:
        """Bytes of shared memory of the largest block, on a GPU whose multiprocessors have so many."""
        self.library.play_device(shared_per_multiprocessor)
        check(self(a), a)
        return self.library.largest_shared()


@pytest.fixture(autouse=True)
def one_thread():
    """PyTorch's threads cost more than they save on tensors this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory) -> Emulation:
    return Emulation(build(tmp_path_factory.mktemp("cuda_emulation")))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_as_eager(emulated, case, dtype):
    a = arguments(case, dtype)
    check(emulated(a), a)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [20, 90])
@pytest.mark.parametrize("scale", [0.0, -0.3, 1.7])
def test_scale(emulated, tokens, dtype, scale):
    a = arguments(Case(tokens, tokens, 2, 2, 32), dtype)
    check(emulated(a, scale), a, scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [16, 90])
def test_nan_in_a_replaced_head_stays_there(emulated, tokens, dtype):
    a = arguments(Case(tokens, tokens, 4, 4, 32, replaced="none"), dtype)
    expected = emulated(a)
    a["replace"][:, :, 1] = True
    expected[:, :, 1] = a["source"][a["source_row"]][:, :, 1]
    for name, bad in (("q", math.nan), ("k", math.inf), ("v", math.nan)):
        a[name][:, :, 1] = bad
    assert torch.equal(emulated(a), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "n"), [(20, 12), (90, 70)])
def test_first_keys_of_minus_infinity(emulated, tokens, n, dtype):
    a = arguments(Case(tokens, tokens, 2, 2, 32, replaced="none"), dtype)
    check_first_keys_of_minus_infinity(lambda **a: emulated(a), n, a)


@pytest.mark.parametrize("tokens", [16, 90])
def test_same_bits_whatever_the_order_of_threads_and_children(emulated, tokens):
    a = arguments(Case(tokens, tokens, 4, 2, 32, children=50), torch.bfloat16)
    assert torch.equal(emulated(a), emulated(a))  # the emulation shuffles threads anew
    order = torch.randperm(50)
    b = a | {name: a[name][order] for name in ("parent", "source_row", "replace")}
    assert torch.equal(emulated(b), emulated(a)[order])


def test_many_parents_and_children_take_the_plan_in_several_blocks(emulated):
    a = arguments(Case(1, 2, 1, 1, 4, parents=9000, children=9000), torch.float32)
    check(emulated(a), a)
    a["parent"][:] = 8999  # one queue of siblings
    check(emulated(a), a)


@pytest.mark.parametrize("seed", [93, 106, 166])
def test_near_ties_of_large_scores(emulated, seed):
    """Two roundings to float32 of the same score part here, and neither is wrong."""
    a = arguments(Case(20, 20, 2, 2, 32, magnitude=100.0), torch.float32, seed=seed)
    check(emulated(a), a)


KB = 1024


@pytest.mark.parametrize("per_multiprocessor", [100 * KB, 164 * KB, 228 * KB])
def test_a_multiprocessor_holds_several_blocks(emulated, per_multiprocessor):
    """Of every size of GPU: four of several heads, two of one head. Each block costs 1 KB more than it asks for."""
    for case, blocks in [
        (Case(16, 16, 4, 4, 32, parents=2, children=2), 4),
        (Case(64, 64, 1, 1, 128, parents=1, children=1), 2),
        (Case(64, 64, 1, 1, 256, parents=1, children=1), 2),
    ]:
        largest = emulated.largest_shared(arguments(case, torch.float32), per_multiprocessor)
        assert blocks * (largest + KB) <= per_multiprocessor


def test_launches_of_many_sizes_set_a_kernels_shared_memory_to_one_value(emulated):
    """Another thread may launch the kernel between the setting and the launch. The emulation refuses a second value."""
    for tokens in (64, 50, 60):
        a = arguments(Case(tokens, tokens, 1, 1, 128, parents=1, children=1), torch.float32)
        assert emulated.largest_shared(a, 228 * KB) > 48 * KB


@pytest.mark.parametrize("name", ["q", "source"])
def test_children_of_nothing_are_refused_before_anything_is_launched(emulated, name):
    a = arguments(Case(4, 4, 2, 2, 8, children=20000), torch.float32)
    for x in ("q", "k", "v") if name == "q" else ("source",):
        a[x] = a[x][:0]
    with pytest.raises(RuntimeError, match="expected rows of q and source"):
        emulated(a)


@pytest.mark.parametrize("name", ["C", "Tq"])
def test_nothing_to_do(emulated, name):
    a = arguments(Case(4, 4, 2, 2, 8, children=0 if name == "C" else 3), torch.float32)
    if name == "Tq":
        a |= {key: a[key][:, :0] for key in ("q", "source", "replace")}
    assert emulated(a).numel() == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [Case(4, 22, 4, 2, 32), Case(90, 90, 2, 2, 32), Case(3, 90, 4, 2, 32)], ids=str)
def test_causal_attention(emulated, case, dtype):
    a = arguments(case, dtype)
    z = torch.full_like(a["q"], math.nan, memory_format=torch.contiguous_format)
    emulated.call("causal_attention", a["q"], a["k"], a["v"], scale=0.3, out=z)
    row = torch.arange(len(z))
    unpatched = {"source": a["q"], "parent": row, "source_row": row, "replace": torch.zeros(z.shape[:3]).bool()}
    check(z, a | unpatched, 0.3)


def branched_mlp(emulated: Emulation, case: mlp.Case, out: torch.Tensor | None = None) -> torch.Tensor:
    out = case.out() if out is None else out
    emulated.call("branched_mlp", *case.arguments, out=out)
    return out


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES], ids=str)
@pytest.mark.parametrize("activation", mlp.ACTIVATIONS)
def test_branched_mlp(emulated, activation, dtype):
    for sizes in ({}, {"d": 130, "m": 257, "biased": False}, {"K": 0}, {"m": 0}, {"C": 0}, {"by_row": False}):
        case = mlp.make_case(**sizes, activation=activation, dtype=dtype)
        mlp.assert_close_to_exact(branched_mlp(emulated, case), case)


def test_branched_mlp_takes_views(emulated):
    case = mlp.make_case(N=4, W=6)
    case = case.having(state=case.state[::2, :, 1:5], terms=case.terms[:, 1:3, :, 2:], member=case.member[:, :, 2:])
    wide = torch.full((2, 5, 3, 4, 20), math.nan)
    out = branched_mlp(emulated, case, wide[..., 2:18])
    mlp.assert_close_to_exact(out, case)
    assert wide[..., :2].isnan().all()


def test_branched_mlp_in_several_launches(emulated):
    """So many hidden units that they are made in parts."""
    case = mlp.make_case(N=1, C=2, B=500, W=1, K=1, d=2, m=5000)
    mlp.assert_close_to_exact(branched_mlp(emulated, case), case)


def test_branched_mlp_reads_no_term_that_is_not_added(emulated):
    case = mlp.make_case()
    expected = branched_mlp(emulated, case)
    case.terms[1] = math.nan
    spoilt = case.member[..., 1].unsqueeze(0).expand(expected.shape[:-1])
    got = branched_mlp(emulated, case)
    assert got[spoilt].isnan().all()
    assert torch.equal(got[~spoilt], expected[~spoilt])


OUT_OF_RANGE = """
import sys
sys.path[:0] = {tests!r}
from test_cuda_emulation import *
a = arguments(Case(4, 4, 2, 2, 8), torch.float32)
a[{name!r}][3] = {value}
Emulation({library!r})(a)
"""


@pytest.mark.parametrize(("name", "value"), [("parent", 3), ("parent", -1), ("source_row", 2), ("source_row", -1)])
def test_an_index_out_of_range_stops_the_device(emulated, name, value):
    code = OUT_OF_RANGE.format(
        tests=[str(ROOT / "tests"), str(Path(__file__).parent)], name=name, value=value, library=str(emulated.path)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"patched_attention: an entry of {name} is out of range" in done.stderr


def test_the_cases_differ_from_unpatched_attention():
    """Otherwise the suite would pass on an operator that ignores replace."""
    for case in CASES:
        a = arguments(case, torch.float32)
        if a["replace"].any():
            unpatched = a | {"replace": torch.zeros_like(a["replace"])}
            assert not torch.allclose(eager(a, torch.float32), eager(unpatched, torch.float32))
