"""What the operators in csrc/ are compiled from, and with what: one library for the CPU, one for CUDA."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pybind11
import torch

from pilot.errors import PilotError

DEVICES = ("cpu", "cuda")


class ExtensionError(PilotError):
    """The operators cannot be built or loaded here: what is missing, and how to get it, in one line."""


@dataclass(frozen=True)
class Library:
    """How the operators of one kind of device are built.

    name        of the Python module
    root        the folder that #include paths start from
    sources     every file that it is made of, headers too; the compiled ones have different names
    flags       for the compilers and the linker, as torch.utils.cpp_extension.load takes them
    cuda_home   the CUDA toolkit that compiles it, if it takes one
    """

    name: str
    root: Path
    sources: list[Path]
    flags: dict[str, list[str]]
    cuda_home: Path | None = None

    @property
    def include_paths(self) -> list[str]:
        return [str(self.root), pybind11.get_include()]


def library(device: str) -> Library:
    """The operators for tensors on "cpu" or "cuda". Raises ExtensionError where PyTorch or this machine has no CUDA."""
    root = source_root()
    others = set(DEVICES) - {device}
    files = [path for path in sources() if not others & set(path.relative_to(root).parts)]
    # -ffp-contract: a * b + c may be one instruction wherever the target has it; clang has to be asked. No
    # -march=native (the cache may be shared between machines) and no -std (PyTorch knows which it needs).
    flags = ["-O3", "-ffp-contract=fast", "-fvisibility=hidden"] if sys.platform != "win32" else ["/O2"]  # not tested
    if device == "cuda":
        home = _cuda_home()
        flags.append(f"-DPILOT_CUDA_ARCHITECTURES={cuda_architectures().replace(';', ',')}")  # one of the build facts
        cuda_flags = {"extra_cflags": flags, "extra_cuda_cflags": ["-O3", "-lineinfo"]}
        return Library("pilot_cuda_operators", root, files, cuda_flags, home)
    # at::parallel_for is serial unless the code that calls it is compiled with OpenMP. Apple's clang has none.
    openmp = {"linux": ["-fopenmp"], "win32": ["/openmp"]}.get(sys.platform, [])
    return Library("pilot_operators", root, files, {"extra_cflags": flags + openmp, "extra_ldflags": openmp})


def source_root() -> Path:
    """csrc/: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if folder.is_dir():
            return folder
    raise ExtensionError(f"csrc is neither in {package} nor beside it: install pilot-patching again")


def sources() -> list[Path]:
    """Every file of csrc, for all devices, in a fixed order."""
    return sorted(path for path in source_root().rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))


def build_environment(library: Library, compiler: str) -> dict[str, str]:
    """The environment variables that PyTorch's builder needs for this library.

    Raises ExtensionError where the compiler or ninja is missing, before PyTorch fails on it in its own words.
    """
    environment = {}
    if shutil.which(compiler) is None:
        raise ExtensionError(
            f"the operators need a C++ compiler, and {compiler!r} was not found: install one (apt install g++), or set "
            "CXX to yours"
        )
    if shutil.which("ninja") is None:
        # pip puts it beside Python, which is not on PATH unless the environment is activated.
        beside_python = shutil.which("ninja", path=sysconfig.get_path("scripts"))
        if beside_python is None:
            raise ExtensionError("the operators are built with ninja, which was not found: pip install ninja")
        environment["PATH"] = os.pathsep.join([os.path.dirname(beside_python), os.environ.get("PATH", "")])
    if library.cuda_home is not None:
        environment["TORCH_CUDA_ARCH_LIST"] = cuda_architectures()
    return environment


def cuda_architectures() -> str:
    """Those in $TORCH_CUDA_ARCH_LIST, else those of the GPUs here, else the two that are tested: "8.0;9.0"."""
    if chosen := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return ";".join(chosen.replace(";", " ").split())
    devices = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    return ";".join(f"{major}.{minor}" for major, minor in devices) or "8.0;9.0"


def _cuda_home() -> Path:
    """The toolkit that compiles for this PyTorch's CUDA: $CUDA_HOME, that of the nvcc on PATH, or the usual place."""
    if torch.version.cuda is None:
        raise ExtensionError(f"the CUDA operators need a PyTorch built with CUDA: this one is {torch.__version__}")
    nvcc = shutil.which("nvcc")
    guesses = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), nvcc and Path(nvcc).resolve().parents[1]]
    for home in (*guesses, "/usr/local/cuda"):
        if home and _is_toolkit(Path(home), torch.version.cuda):
            return Path(home)
    raise ExtensionError(
        f"the CUDA operators need a CUDA toolkit of PyTorch's major version, {torch.version.cuda}, and none was found: "
        "install one, or set CUDA_HOME to its folder"
    )


def _is_toolkit(home: Path, cuda: str) -> bool:
    """Whether nvcc and headers of the major version of `cuda` are there: PyTorch's builder refuses others."""
    header = home / "include" / "cuda_runtime_api.h"
    if shutil.which("nvcc", path=home / "bin") is None or not header.exists():
        return False
    version = re.search(r"#define CUDART_VERSION +(\d+)", header.read_text(encoding="utf-8", errors="replace"))
    return version is not None and int(version[1]) // 1000 == int(cuda.split(".")[0])
