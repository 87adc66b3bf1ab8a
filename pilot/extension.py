"""Builds and loads the C++ (and, where PyTorch has it, CUDA) operators in csrc/, once.

    python -m pilot.extension     builds them now rather than on first use, and prints what was built

The compiled library is kept in a cache folder named after everything that it depends on: PyTorch, Python, the sources,
the flags. The folder is $PILOT_EXTENSION_DIR, else $TORCH_EXTENSIONS_DIR/pilot, else the user's cache folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from pilot.errors import PilotError

NAME = "pilot_operators"
# Seconds to wait for another process that is compiling. If it dies its lock goes with it: this is for one that hangs.
LOCK_TIMEOUT = 900


class ExtensionError(PilotError):
    """The operators cannot be built or loaded here: what is missing, and how to get it, in one line."""


@cache
def _loaded() -> ModuleType | ExtensionError:
    """The module, or why there is none: found out once in a process."""
    try:
        return _load_or_build()
    except ExtensionError as error:
        return error


def load() -> ModuleType:
    """The compiled module; torch.ops.pilot has the operators from here on. Raises ExtensionError."""
    result = _loaded()
    if isinstance(result, ExtensionError):
        raise result
    return result


def why_unavailable() -> str | None:
    """None where the operators load, else the reason. Builds them if that has not been done."""
    result = _loaded()
    return str(result) if isinstance(result, ExtensionError) else None


def build_facts() -> dict[str, object]:
    """What was built, and what of it runs on this machine."""
    module = load()
    return {
        **module.build_facts(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "library": module.__file__,
    }


def _load_or_build() -> ModuleType:
    files, flags = sources(), _flags()
    folder = _cache_root() / _key(files, flags)
    library = folder / f"{NAME}{sysconfig.get_config_var('EXT_SUFFIX') if os.name == 'nt' else '.so'}"
    built = folder / "built"  # written last: a build that was killed half way has no such file
    if built.exists():
        return _import(library)

    # Imported here: neither is needed, nor should cost time, where the library is there already.
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "pilot.lock", timeout=LOCK_TIMEOUT)
        lock.acquire()
    except Timeout:
        raise ExtensionError(
            f"another process has been building the operators in {folder} for {LOCK_TIMEOUT} s: end it, or set "
            "PILOT_EXTENSION_DIR to another folder"
        ) from None
    except OSError as error:
        raise ExtensionError(
            f"the operators cannot be built in {folder} ({error.strerror}): set PILOT_EXTENSION_DIR to a folder that "
            "can be written"
        ) from None
    with lock:
        if not built.exists():
            _build(files, flags, folder)
            built.touch()
    return _import(library)


def _build(sources: list[Path], flags: dict[str, list[str]], folder: Path) -> None:
    # It warns where there is a CUDA toolkit and no GPU, which is no mistake.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils import cpp_extension

    _require_tools(cpp_extension.get_cxx_compiler())
    # PyTorch's builder has a lock file of its own, and waits for ever for one that a killed build left behind. We hold
    # the outer lock, so nobody else is in there.
    (folder / "lock").unlink(missing_ok=True)
    print(f"pilot: compiling the operators, once, into {folder} ...", file=sys.stderr, flush=True)
    if home := _cuda_home():
        cpp_extension.CUDA_HOME = str(home)  # its own guess follows no links, and may be a folder without nvcc
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", _cuda_architectures())
    try:
        cpp_extension.load(
            NAME, [str(s) for s in sources if s.suffix in (".cpp", ".cu")], build_directory=str(folder), **flags
        )
    except (RuntimeError, ImportError, OSError) as error:
        log = folder / "build.log"
        log.write_text(str(error), encoding="utf-8")
        found = re.search(r"^.*(error:|error C\d+:|undefined reference).*$", str(error), re.MULTILINE)
        first = (found.group(0) if found else str(error)).splitlines()[0].strip()
        raise ExtensionError(f"the operators did not compile: {first} (all of it: {log})") from None


def _require_tools(compiler: str) -> None:
    """A word about what is missing before PyTorch's builder fails on it in its own way."""
    if shutil.which(compiler) is None:
        raise ExtensionError(
            f"the operators need a C++ compiler, and there is no {compiler!r}: install one (apt install g++), or set "
            "CXX to yours"
        )
    if shutil.which("ninja") is None:
        # pip puts it beside Python, which is not on PATH unless the environment is activated.
        beside_python = shutil.which("ninja", path=sysconfig.get_path("scripts"))
        if beside_python is None:
            raise ExtensionError("the operators are built with ninja, and there is none: pip install ninja")
        os.environ["PATH"] = os.pathsep.join([os.path.dirname(beside_python), os.environ.get("PATH", "")])


def _import(library: Path) -> ModuleType:
    try:
        if NAME in sys.modules:
            return sys.modules[NAME]
        spec = importlib.util.spec_from_file_location(NAME, library)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[NAME] = module
        return module
    except (ImportError, OSError) as error:
        raise ExtensionError(f"{library} does not load: {error}; if it is damaged, delete its folder") from None


def _source_root() -> Path:
    """csrc/: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "operator.cpp").exists():
            return folder
    raise ExtensionError(f"csrc is neither in {package} nor beside it: install pilot-patching again")


def _cuda_home() -> Path | None:
    """The toolkit that compiles for this PyTorch's CUDA: $CUDA_HOME, that of the nvcc on PATH, or the usual place.

    None where there is none, and where PyTorch has no CUDA: what is built then runs on the CPU.
    """
    if torch.version.cuda is None:
        return None
    nvcc = shutil.which("nvcc")
    guesses = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), nvcc and Path(nvcc).resolve().parents[1]]
    return next((Path(home) for home in (*guesses, "/usr/local/cuda") if home and _is_toolkit(Path(home))), None)


def _is_toolkit(home: Path) -> bool:
    """Whether nvcc and headers are there, of the major version that PyTorch was built with: it refuses others."""
    header = home / "include" / "cuda_runtime_api.h"
    if shutil.which("nvcc", path=home / "bin") is None or not header.exists():
        return False
    version = re.search(r"#define CUDART_VERSION +(\d+)", header.read_text(encoding="utf-8", errors="replace"))
    return version is not None and int(version[1]) // 1000 == int(torch.version.cuda.split(".")[0])


def sources() -> list[Path]:
    """Every file of csrc, headers too (they are part of the cache key), in a fixed order."""
    root = _source_root()
    files = sorted(path for path in root.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
    with_cuda = _cuda_home() is not None
    return [path for path in files if with_cuda or path.parent.name != "cuda"]


def _flags() -> dict[str, list[str]]:
    """No -march=native (the cache may be shared between machines) and no -std (PyTorch knows which it needs)."""
    if sys.platform == "win32":  # not tested
        return {"extra_cflags": ["/O2", "/openmp"]}
    # -ffp-contract: a * b + c may be one instruction wherever the target has it; clang has to be asked.
    flags = ["-O3", "-ffp-contract=fast", "-fvisibility=hidden"]
    # at::parallel_for is serial unless the code that calls it is compiled with OpenMP. Apple's clang has none.
    openmp = ["-fopenmp"] if sys.platform == "linux" else []
    cuda = {}
    if _cuda_home():
        cuda = {"extra_cuda_cflags": ["-O3", "-lineinfo"]}
        flags.append(f"-DPILOT_CUDA_ARCHITECTURES={_cuda_architectures().replace(';', ',')}")  # one of the build facts
    return {"extra_cflags": flags + openmp, "extra_ldflags": list(openmp), **cuda}


def _cuda_architectures() -> str:
    """Those asked for, else those of the devices here, else the two that are tested; in TORCH_CUDA_ARCH_LIST's form."""
    if chosen := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return ";".join(chosen.replace(";", " ").split())
    devices = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    return ";".join(f"{major}.{minor}" for major, minor in devices) or "8.0;9.0"


def _cache_root() -> Path:
    if chosen := os.environ.get("PILOT_EXTENSION_DIR"):
        return Path(chosen)
    if shared := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(shared) / "pilot"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "pilot-patching"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pilot-patching"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilot-patching"


def _key(sources: list[Path], flags: dict[str, list[str]]) -> str:
    facts = [torch.__version__, torch.version.cuda, sys.implementation.cache_tag, sysconfig.get_platform(), flags]
    facts.append(os.environ.get("CXX"))
    digest = hashlib.sha256(repr(facts).encode())
    root = _source_root()
    for path in sources:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"torch-{torch.__version__}-{digest.hexdigest()[:16]}"


def main() -> int:
    try:
        facts = build_facts()
    except PilotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in facts.items():
        print(f"{name:>20}  {', '.join(value) if isinstance(value, list) else value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
