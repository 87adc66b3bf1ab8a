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
from support.cuda_cases import CASES, DTYPES, Case, arguments, check, check_first_keys_of_minus_infinity, eager
from support.project import ROOT

CSRC = ROOT / "csrc"
EMULATION = ROOT / "tests" / "support" / "cuda_emulation"
FLAGS = [
    *("-std=c++20", "-O2", "-fPIC", "-fno-strict-aliasing", "-fsanitize=undefined", "-fno-sanitize-recover=all"),
    *("-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized", "-Wno-class-memaccess"),
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

    language = [f"-I{CSRC}", "-isystem", str(cuda_headers()), "-include", str(EMULATION / "device.h"), "-x", "c++"]

    def compile(source: Path) -> str:
        target = folder / f"{source.name}.o"
        command = [compiler, *FLAGS, *language, "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{source.name}:\n{done.stderr}"
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile, [*sorted(CSRC.rglob("*.cu")), EMULATION / "emulation.cpp"]))
    library = folder / "libpilot_emulation.so"
    # -Bsymbolic: its own CUDA functions, not those of the CUDA runtime that a PyTorch with CUDA has loaded.
    link = [compiler, "-shared", "-Wl,-Bsymbolic", "-fsanitize=undefined"]
    subprocess.run([*link, *objects, "-o", str(library)], check=True)
    return library


class Emulation:
    def __init__(self, path: Path):
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.library.patched_attention.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_double]

    def __call__(self, a: dict[str, torch.Tensor], scale: float | None = None) -> torch.Tensor:
        z, error = self.launch(a, scale)
        assert error == 0, f"cudaError {error}"
        return z

    def launch(self, a: dict[str, torch.Tensor], scale: float | None = None) -> tuple[torch.Tensor, int]:
        """z, and the cudaError that the launcher returns."""
        q, k = a["q"], a["k"]
        z = torch.full((len(a["parent"]), *q.shape[1:]), math.nan, dtype=q.dtype)
        strided = [a[name] for name in ("q", "k", "v", "source")]
        tensors = [*strided, a["parent"], a["source_row"], a["replace"], z]
        pointers = (ctypes.c_void_p * 8)(*(x.data_ptr() for x in tensors))
        numbers = [len(q), len(z), len(a["source"]), q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3]]
        numbers += [stride for x in strided for stride in x.stride()[:3]]
        sizes = (ctypes.c_int64 * len(numbers))(*numbers)
        scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
        dtype = DTYPES.index(q.dtype)
        return z, self.library.patched_attention(dtype, ctypes.byref(pointers), ctypes.byref(sizes), scale)

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
    _, error = emulated.launch(a)
    assert error == 1  # cudaErrorInvalidValue


@pytest.mark.parametrize("name", ["C", "Tq"])
def test_nothing_to_do(emulated, name):
    a = arguments(Case(4, 4, 2, 2, 8, children=0 if name == "C" else 3), torch.float32)
    if name == "Tq":
        a |= {key: a[key][:, :0] for key in ("q", "source", "replace")}
    assert emulated(a).numel() == 0


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
