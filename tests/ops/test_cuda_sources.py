"""The CUDA sources compile with nvcc alone, as PyTorch would compile them, and fit the registers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import pytest
from support.project import ROOT

CSRC = ROOT / "csrc"
SOURCES = sorted(CSRC.rglob("*.cu"))
# What torch.utils.cpp_extension passes; the older of the standards that its versions ask for.
FLAGS = [
    f"-I{CSRC}",
    *("-O3", "-std=c++17", "--expt-relaxed-constexpr", "-Werror", "all-warnings", "-Xptxas", "-v"),
    *("-D__CUDA_NO_HALF_OPERATORS__", "-D__CUDA_NO_HALF_CONVERSIONS__"),
    *("-D__CUDA_NO_BFLOAT16_CONVERSIONS__", "-D__CUDA_NO_HALF2_OPERATORS__"),
]
ARCHS = [80, 90]
# Bytes a thread may keep in memory for want of registers: some values that live all through the kernel. Were it more,
# accumulators would be among them.
MAX_SPILLED = 64


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[tuple[str, int], str]:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on PATH: install the CUDA toolkit to compile csrc/cuda")
    folder = tmp_path_factory.mktemp("cuda_sources")

    def compile(source: Path, arch: int) -> str:
        target = folder / f"{source.name}.{arch}.o"
        command = [nvcc, *FLAGS, f"-gencode=arch=compute_{arch},code=sm_{arch}", "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{source.name} for sm_{arch}:\n{done.stderr}"
        return done.stderr

    jobs = [(source, arch) for source in SOURCES for arch in ARCHS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reports = pool.map(lambda job: compile(*job), jobs)
        return {(source.name, arch): report for (source, arch), report in zip(jobs, reports, strict=True)}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("source", [s.name for s in SOURCES if s.name.startswith("packed")])
def test_attention_leaves_shared_memory_to_its_tiles(reports, source, arch):
    """They take up to the 99 KB that a block can have on GPUs of compute capability 8.6, 8.9 and 12."""
    report = reports[source, arch]
    assert "Compiling entry function" in report
    assert not re.search(r"[1-9]\d* bytes smem", report), report


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("source", [s.name for s in SOURCES])
def test_compiles_and_fits_the_registers(reports, source, arch):
    report = reports[source, arch]
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill stores", report)]
    assert all(n <= MAX_SPILLED for n in spilled), report
    assert len(spilled) >= 3, f"expected at least 3 kernels:\n{report}"


def test_the_launchers_need_no_pytorch():
    for path in CSRC.glob("**/cuda/*"):
        if path.suffix != ".cpp":
            assert not re.search(r"#include <(torch|ATen|c10)/", path.read_text()), path.name


@pytest.mark.parametrize("path", sorted(CSRC.glob("**/cuda/*.cpp")), ids=lambda path: path.name)
def test_the_registration_parses(path, tmp_path):
    """Against this PyTorch's headers, CUDA's own and the shared checks. To link it takes a PyTorch with CUDA."""
    nvcc, compiler = shutil.which("nvcc"), shutil.which("g++")
    if nvcc is None or compiler is None:
        pytest.skip("no nvcc or no g++ on PATH: install the CUDA toolkit and g++")
    dry_run = subprocess.run([nvcc, "--dryrun", "-c", str(SOURCES[0])], capture_output=True, text=True).stderr
    cuda_include = re.search(r'"-I([^"]*include)"', dry_run).group(1)
    # PyTorch without CUDA has these headers but for one, which says how it was built.
    stub = tmp_path / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h"
    stub.parent.mkdir(parents=True)
    stub.touch()
    from torch.utils import cpp_extension

    folders = (
        pybind11.get_include(),
        *cpp_extension.include_paths(),
        sysconfig.get_path("include"),
        cuda_include,
        tmp_path,
    )
    includes = [f"-isystem{folder}" for folder in folders]
    command = [compiler, "-std=c++20", "-fsyntax-only", "-Wall", "-Werror", f"-I{CSRC}", *includes]
    defines = ["-DTORCH_EXTENSION_NAME=pilot_cuda_operators", "-DPILOT_CUDA_ARCHITECTURES=9.0"]
    done = subprocess.run([*command, *defines, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
