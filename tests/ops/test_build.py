"""Building the operators: whatever is missing ends in one line of words, never in a hang or a deep traceback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import pytest
import torch
from support.project import ROOT, no_compiler

from pilot.ops import build, toolchain
from pilot.ops.toolchain import ExtensionError, Library, library

if reason := no_compiler():
    pytest.skip(reason, allow_module_level=True)

# The smallest sources that the builder takes: a test of building need not compile kernels.
TINY = """
#include <Python.h>
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "pilot_operators", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit_pilot_operators() { return PyModule_Create(&module); }
"""


def run(code: str, *, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Python code in a fresh process, with nothing loaded or found out yet."""
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )


def load_tiny(sources: Path, device: str = "cpu") -> str:
    """Code that loads the extension made of `sources` and says what happened in one line."""
    return (
        "import torch\n"
        "from pathlib import Path\n"
        "from pilot.ops import build, toolchain\n"
        f"torch.version.cuda = {'13.0' if device == 'cuda' else None!r}\n"
        f"toolchain.source_root = lambda: Path({str(sources)!r})\n"
        "try:\n"
        f"    print('loaded', build.load({device!r}).__file__)\n"
        "except build.ExtensionError as error:\n"
        "    print('error', error)\n"
    )


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "operator.cpp").write_text(TINY)
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_import_builds_nothing(cache):
    result = run("import pilot.ops.patched_attention, pilot.models.transformer", PILOT_EXTENSION_DIR=str(cache))
    assert result.returncode == 0
    assert not cache.exists()


def test_builds_once_then_only_loads(sources, cache):
    first = run(load_tiny(sources), PILOT_EXTENSION_DIR=str(cache))
    assert first.stdout.startswith("loaded"), first.stdout + first.stderr
    assert re.fullmatch(r"pilot: compiling the operators, once, into \S+ \.\.\.\n", first.stderr)
    # Loading needs neither compiler nor ninja, nor a word.
    again = run(load_tiny(sources), PILOT_EXTENSION_DIR=str(cache), PATH="/nonexistent")
    assert (again.stdout, again.stderr) == (first.stdout, "")


def toolkit(home: Path, version: int | None) -> Path:
    """What is looked at of a CUDA toolkit. No version: no nvcc, as where only the runtime is installed."""
    header = home / "include" / "cuda_runtime_api.h"
    header.parent.mkdir(parents=True)
    header.write_text(f"#define CUDART_VERSION  {version or 13000}\n")
    if version is not None:
        (home / "bin").mkdir()
        (home / "bin" / "nvcc").touch(mode=0o755)
    return home


def test_the_cuda_toolkit_is_that_of_pytorchs_major_version(tmp_path, monkeypatch):
    old, new, later, runtime = (toolkit(tmp_path / str(version), version) for version in (12080, 13000, 13020, None))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    for pytorch, cuda_home, on_path, found in [
        ("13.0", new, None, new),
        ("13.0", later, new, later),
        ("13.0", old, new, new),
        ("13.0", runtime, new, new),
        ("12.8", new, old, old),
    ]:
        monkeypatch.setattr("torch.version.cuda", pytorch)
        monkeypatch.setenv("CUDA_HOME", str(cuda_home))
        monkeypatch.setenv("PATH", str(on_path / "bin") if on_path else "/nonexistent")
        assert library("cuda").cuda_home == found
    link = tmp_path / "bin" / "nvcc"
    link.parent.mkdir()
    link.symlink_to(old / "bin" / "nvcc")
    monkeypatch.setenv("PATH", str(link.parent))
    assert library("cuda").cuda_home == old


def test_no_cuda(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(ExtensionError, match="the CUDA operators need a PyTorch built with CUDA: this one is "):
        library("cuda")
    monkeypatch.setattr("torch.version.cuda", "11.8")
    with pytest.raises(ExtensionError, match=r"11\.8, and none was found: install one, or set CUDA_HOME"):
        library("cuda")


def test_a_library_is_made_of_what_its_device_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path, 13000)))
    monkeypatch.setattr("torch.version.cuda", "13.0")
    root = toolchain.source_root()
    cpu, cuda = ({path.relative_to(root).as_posix() for path in library(device).sources} for device in ("cpu", "cuda"))
    assert {"cpu/module.cpp", "cpu/isa_avx2.cpp", "patched_attention/cpu/attention.h"} < cpu - cuda
    assert {"cuda/module.cpp", "patched_attention/cuda/plan.cu", "cuda/device.cuh"} < cuda - cpu
    assert {"common/memory_safety.h", "patched_attention/patched_attention.h"} < cpu & cuda
    assert {path.relative_to(root).as_posix() for path in toolchain.sources()} == cpu | cuda


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_object_files_have_different_names(device, tmp_path, monkeypatch):
    """PyTorch's builder names them after the source alone, without its folder: it would compile one of two only."""
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path, 13000)))
    monkeypatch.setattr("torch.version.cuda", "13.0")
    names = [(path.stem, path.suffix) for path in library(device).sources if path.suffix in (".cpp", ".cu")]
    assert len(names) == len(set(names))


def test_key_follows_sources_and_flags(sources):
    files = [sources / "operator.cpp"]
    key = build._key(Library("x", sources, files, {"extra_cflags": ["-O3"]}))
    assert build._key(Library("x", sources, files, {"extra_cflags": ["-O3"]})) == key
    assert build._key(Library("x", sources, files, {"extra_cflags": ["-O2"]})) != key
    assert build._key(Library("x", sources.parent, files, {"extra_cflags": ["-O3"]})) != key, "another folder"
    (sources / "operator.cpp").write_text(TINY + "\n")
    assert build._key(Library("x", sources, files, {"extra_cflags": ["-O3"]})) != key


def test_two_processes_at_once(sources, cache):
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: run(load_tiny(sources), PILOT_EXTENSION_DIR=str(cache)), range(2)))
    assert all(result.stdout.startswith("loaded") for result in results), results
    assert sum("compiling" in result.stderr for result in results) == 1


def test_a_build_killed_half_way(sources, cache):
    """Its torch lock file and half-written library are no obstacle."""
    assert run(load_tiny(sources), PILOT_EXTENSION_DIR=str(cache)).stdout.startswith("loaded")
    (folder,) = cache.iterdir()
    (folder / "built").unlink()
    (folder / "lock").touch()
    (folder / "pilot_operators.so").write_bytes(b"\x7fELF")
    (folder / "operator.o").unlink()
    result = run(load_tiny(sources), PILOT_EXTENSION_DIR=str(cache))
    assert result.stdout.startswith("loaded"), result.stdout + result.stderr


def test_broken_source(sources, cache):
    (sources / "operator.cpp").write_text(TINY + "int broken = ;\n")
    result = run(load_tiny(sources), PILOT_EXTENSION_DIR=str(cache))
    assert re.fullmatch(
        r"error the operators did not compile: \S+operator.cpp:\d+.* error: .* \(full log: \S+log\)\n", result.stdout
    )


@pytest.fixture
def broken_toolkit(sources, tmp_path):
    """A CUDA toolkit whose compiler fails, and something for it to compile."""
    home = toolkit(tmp_path / "toolkit", 13000)
    (home / "bin" / "nvcc").write_text("#!/bin/sh\necho 'nvcc fatal   : no such host compiler'; exit 1\n")
    (sources / "cuda").mkdir()
    (sources / "cuda" / "kernel.cu").touch()
    return home


def test_a_cuda_toolkit_that_fails(sources, cache, broken_toolkit):
    """It costs the operators on the CPU nothing, and says why in the compiler's words."""
    code = load_tiny(sources) + "torch.version.cuda = '13.0'\nprint(build.why_unavailable('cuda'))\n"
    result = run(code, PILOT_EXTENSION_DIR=str(cache), CUDA_HOME=str(broken_toolkit), TORCH_CUDA_ARCH_LIST="9.0")
    reason = r"the CUDA operators did not compile: nvcc fatal   : no such host compiler \(full log: \S+log\)"
    assert re.fullmatch(rf"loaded \S+\n{reason}\n", result.stdout), result.stdout + result.stderr


def test_a_wrong_list_of_cuda_architectures(sources, cache, broken_toolkit):
    environment = {"CUDA_HOME": str(broken_toolkit), "TORCH_CUDA_ARCH_LIST": "80"}
    result = run(load_tiny(sources, "cuda"), PILOT_EXTENSION_DIR=str(cache), **environment)
    refused = r"error PyTorch does not take TORCH_CUDA_ARCH_LIST='80' \(Unknown CUDA arch \(80\).*\): "
    assert re.fullmatch(refused + "set it to compute capabilities such as 8.0 or 8.0;9.0\n", result.stdout), (
        result.stdout + result.stderr
    )


STATE = """
def state():
    from torch.utils import cpp_extension
    return dict(os.environ), cpp_extension.CUDA_HOME, logging.getLogger("torch.utils.cpp_extension").level
"""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_build_leaves_the_process_as_it_was(sources, cache, broken_toolkit, tmp_path, device):
    """PyTorch's builder takes environment variables, a global of its own and a logger's level."""
    tools = tmp_path / "tools"  # without ninja, so that the builder needs another PATH
    tools.mkdir()
    for tool in ("c++", "sh", "ld", "as"):
        (tools / tool).symlink_to(shutil.which(tool))
    code = "import logging, os\nos.environ.pop('TORCH_CUDA_ARCH_LIST', None)\n" + STATE + "before = state()\n"
    code += load_tiny(sources, device) + "print(state() == before)\n"
    result = run(code, PILOT_EXTENSION_DIR=str(cache), PATH=str(tools), CUDA_HOME=str(broken_toolkit))
    what, unchanged = result.stdout.splitlines()
    assert what.startswith("loaded" if device == "cpu" else "error the CUDA operators did not compile"), result.stderr
    assert unchanged == "True"


def test_broken_library(sources, cache):
    assert run(load_tiny(sources), PILOT_EXTENSION_DIR=str(cache)).stdout.startswith("loaded")
    next(cache.glob("*/pilot_operators.so")).write_bytes(b"not a library")
    result = run(load_tiny(sources), PILOT_EXTENSION_DIR=str(cache))
    assert re.match(
        r"error \S+pilot_operators.so does not load: .*; if it is damaged, delete its folder", result.stdout
    )


def test_no_compiler(sources, cache):
    result = run(load_tiny(sources), PILOT_EXTENSION_DIR=str(cache), CXX="no-such-c++")
    assert result.stdout == (
        "error the operators need a C++ compiler, and 'no-such-c++' was not found: install one (apt install g++), or "
        "set CXX to yours\n"
    )


def test_no_ninja(sources, cache, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "c++").symlink_to(shutil.which("c++"))
    hide = (  # the ninja that pip has put beside Python
        "import sysconfig\n"
        "get_path = sysconfig.get_path\n"
        "sysconfig.get_path = lambda name, *a, **k: '/nonexistent' if name == 'scripts' else get_path(name, *a, **k)\n"
    )
    result = run(hide + load_tiny(sources), PILOT_EXTENSION_DIR=str(cache), PATH=str(tools))
    assert result.stdout == "error the operators are built with ninja, which was not found: pip install ninja\n"


def test_cache_folder_that_cannot_be_written(sources, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "cache", Path("/proc/pilot")):
        result = run(load_tiny(sources), PILOT_EXTENSION_DIR=str(folder))
        assert re.fullmatch(
            r"error the operators cannot be built in \S+ \(.+\): set PILOT_EXTENSION_DIR to a folder that can be.*\n",
            result.stdout,
        )


def test_the_first_call_of_an_operator_loads_the_kernels():
    code = (
        "import torch\n"
        "from pilot.ops import build, product\n"
        "x, out = torch.ones(2, 2), torch.empty(2, 2)\n"
        "def loaded(): return torch._C._dispatch_has_kernel_for_dispatch_key('pilot::product', 'CPU')\n"
        "before = loaded()\n"
        "product(x, x, out=out)\n"
        "print(before, loaded(), out.tolist())\n"
    )
    result = run(code)
    assert result.stdout == "False True [[2.0, 2.0], [2.0, 2.0]]\n", result.stderr


def test_without_a_compiler_operators_run_in_pytorch_with_one_warning(cache):
    code = (
        "import torch\n"
        "from pilot.ops import product\n"
        "x, out = torch.ones(2, 2), torch.empty(2, 2)\n"
        "for _ in range(3): product(x, x, out=out)\n"
        "print(out.tolist())\n"
    )
    result = run(code, PILOT_EXTENSION_DIR=str(cache), CXX="no-such-c++")
    assert result.stdout == "[[2.0, 2.0], [2.0, 2.0]]\n", result.stderr
    assert result.stderr.count("RuntimeWarning: the operators run in eager PyTorch: the operators need a C++") == 1


def test_auto_falls_back_with_one_warning(cache):
    code = (
        "import torch\n"
        "from pilot.ops import patched_attention\n"
        "from pilot.ops.dispatch import runs_fused\n"
        "x, i = torch.randn(2, 3, 1, 8), torch.arange(2)\n"
        "for _ in range(3): patched_attention(x, x, x, x, i, i, torch.zeros(2, 3, 1, dtype=torch.bool))\n"
        "print(runs_fused('auto'))\n"
        "try: runs_fused('fused')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    result = run(code, PILOT_EXTENSION_DIR=str(cache), CXX="no-such-c++")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("False\nPilotError the operators need a C++ compiler")
    assert (
        result.stderr.count("RuntimeWarning: the operators run in eager PyTorch: the operators need a C++ compiler")
        == 1
    )


def test_command_says_what_was_built():
    result = subprocess.run(
        [sys.executable, "-m", "pilot.ops.build"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    facts = build.build_facts()
    cpu, compiled, running, cuda = result.stdout.splitlines()[:4]
    assert cpu == f"CPU operators: {facts['library']}"
    assert compiled == (
        f"  compiled with {facts['compiler']}, {'with' if facts['openmp'] else 'without'} OpenMP, against PyTorch "
        f"{torch.__version__} and pybind11 {pybind11.__version__}"
    )
    sets = ", ".join(facts["instruction_sets"])
    assert re.fullmatch(rf"  running on {facts['instruction_set']} \(this machine has {sets}\), threads: \d+", running)
    assert cuda.startswith("CUDA operators: ")
    assert result.stderr == "", "no warning of runpy's, and nothing to build"


def test_the_module_is_written_with_the_package_pybind11():
    """Not with the copy of its headers that PyTorch brings."""
    assert build.build_facts()["pybind11"] == pybind11.__version__
    for path in toolchain.source_root().glob("*/module.cpp"):
        assert not re.search(r"#include <(torch|ATen|c10)/", path.read_text())


def test_command_fails_in_words(cache):
    result = subprocess.run(
        [sys.executable, "-m", "pilot.ops.build"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PILOT_EXTENSION_DIR": str(cache), "CXX": "no-such-c++"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 2
    assert re.fullmatch(r"error: the operators need a C\+\+ compiler.*\n", result.stderr)


@pytest.mark.parametrize("name", ["generic", "avx2", "mmx"])
def test_capability_from_the_environment(name):
    result = run(
        "from pilot.ops import build\n"
        "try: print(build.build_facts()['instruction_set'])\n"
        "except build.ExtensionError as error: print(error)\n",
        PILOT_CPU_CAPABILITY=name,
    )
    if name in build.build_facts()["instruction_sets"]:
        assert result.stdout == f"{name}\n"
    else:
        assert f"this CPU has no instruction set '{name}' (PILOT_CPU_CAPABILITY): it has generic" in result.stdout


@pytest.mark.parametrize("compiler", ["g++-11", "g++", "clang++"])
@pytest.mark.parametrize("unit", ["avx2", "avx512", "generic"])
def test_instruction_sets_compile(compiler, unit):
    """g++ 11 is that of Ubuntu 22.04; GCC and clang have different names for a shuffle of vectors."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    source = toolchain.source_root() / "cpu" / f"isa_{unit}.cpp"
    command = [compiler, "-std=c++20", "-O1", "-fsyntax-only", f"-I{toolchain.source_root()}", "-Wall", "-Werror"]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_brings_every_source_and_every_module(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    # From a copy: setuptools writes its build folders beside the sources.
    copy = tmp_path / "project"
    for name in ("pilot", "stages", "csrc", "pyproject.toml", "setup.py", "README.md"):
        path = ROOT / name
        shutil.copytree(path, copy / name) if path.is_dir() else shutil.copy(path, copy / name)
    subprocess.run([*command, str(tmp_path), str(copy)], check=True, stdin=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "installed", format="zip")
    installed = tmp_path / "installed"
    sources = {path.relative_to(ROOT / "csrc") for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert {path.relative_to(installed / "pilot" / "csrc") for path in installed.rglob("csrc/**/*.*")} == sources
    key = "from pilot.ops import build, toolchain as t; print(t.source_root(), build._key(t.library('cpu')))"
    root, installed_key = run(key, cwd=tmp_path, PYTHONPATH=str(installed)).stdout.split()
    assert Path(root) == installed / "pilot" / "csrc"
    assert installed_key == run(key).stdout.split()[1], "the same sources, so the same library"

    modules = [path.relative_to(ROOT) for name in ("pilot", "stages") for path in (ROOT / name).rglob("*.py")]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in sorted(modules)]
    code = f"import importlib\nfor name in {names}: importlib.import_module(name)"
    done = run(code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
