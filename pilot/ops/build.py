"""Builds and loads the operators in csrc/: those for the CPU on their first use, those for CUDA on theirs.

    python -m pilot.ops.build     builds them now, and prints what was built

A compiled library is kept in a cache folder named after everything that it depends on: PyTorch, Python, the sources,
the flags. The folder is $PILOT_EXTENSION_DIR, else $TORCH_EXTENSIONS_DIR/pilot, else the user's cache folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import pybind11
import torch

from pilot.errors import PilotError
from pilot.ops.toolchain import ExtensionError, Library, build_environment, cuda_architectures, library

# Seconds to wait for another process that is compiling. If it dies its lock goes with it: this is for one that hangs.
LOCK_TIMEOUT = 900


@cache
def _loaded(device: str) -> ModuleType | ExtensionError:
    """The module, or why there is none: found out once in a process."""
    try:
        return _load_or_build(library(device))
    except ExtensionError as error:
        return error


def load(device: str = "cpu") -> ModuleType:
    """The module compiled for "cpu" or "cuda"; from here on torch.ops.pilot computes there. Raises ExtensionError."""
    result = _loaded(device)
    if isinstance(result, ExtensionError):
        raise result
    return result


def why_unavailable(device: str = "cpu") -> str | None:
    """None where the device's operators load, else the reason. Builds them if that has not been done."""
    result = _loaded(device)
    return str(result) if isinstance(result, ExtensionError) else None


def build_facts() -> dict[str, object]:
    """What was built for the CPU, and what of it runs on this machine."""
    module = load()
    return {
        **module.build_facts(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "library": module.__file__,
    }


def _load_or_build(library: Library) -> ModuleType:
    folder = _cache_root() / _key(library)
    suffix = sysconfig.get_config_var("EXT_SUFFIX") if os.name == "nt" else ".so"
    file = folder / f"{library.name}{suffix}"
    built = folder / "built"  # written last: a build that was killed half way has no such file
    if built.exists():
        return _import(library.name, file)

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
            _build(library, folder)
            built.touch()
    return _import(library.name, file)


def _build(library: Library, folder: Path) -> None:
    with _builder(library) as cpp_extension:
        environment = build_environment(library, cpp_extension.get_cxx_compiler())
        # PyTorch's builder has a lock file of its own, and waits for ever for one that a killed build left behind. We
        # hold the outer lock, so nobody else is in there.
        (folder / "lock").unlink(missing_ok=True)
        what = "operators" if library.cuda_home is None else "CUDA operators"
        print(f"pilot: compiling the {what}, once, into {folder} ...", file=sys.stderr, flush=True)
        try:
            with _environment(environment):
                cpp_extension.load(
                    library.name,
                    [str(path) for path in library.sources if path.suffix in (".cpp", ".cu")],
                    build_directory=str(folder),
                    extra_include_paths=library.include_paths,
                    **library.flags,
                )
        except ValueError as error:
            if library.cuda_home is None:
                raise
            raise ExtensionError(
                f"PyTorch does not take TORCH_CUDA_ARCH_LIST={cuda_architectures()!r} ({error}): set it to compute "
                "capabilities such as 8.0 or 8.0;9.0"
            ) from None
        except (RuntimeError, ImportError, OSError) as error:
            log = folder / "build.log"
            log.write_text(str(error), encoding="utf-8")
            found = re.search(r"^.*(error:|error C\d+:|nvcc fatal|undefined reference).*$", str(error), re.MULTILINE)
            reason = found.group(0).strip() if found else str(error).rstrip().splitlines()[-1]
            raise ExtensionError(f"the {what} did not compile: {reason} (full log: {log})") from None


@contextmanager
def _builder(library: Library) -> Iterator[ModuleType]:
    """torch.utils.cpp_extension, set up for this library; left as it was."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns, on import already, of a CUDA toolkit where there is no GPU
    try:
        from torch.utils import cpp_extension

        cuda_home = cpp_extension.CUDA_HOME
        try:
            if library.cuda_home is not None:  # its own guess follows no links, and may have no nvcc
                cpp_extension.CUDA_HOME = str(library.cuda_home)
            yield cpp_extension
        finally:
            cpp_extension.CUDA_HOME = cuda_home
    finally:
        logger.setLevel(level)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables for PyTorch's builder, which takes them from nowhere else. Left as they were."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _import(name: str, file: Path) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # the suffix is that of an extension module
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        raise ExtensionError(f"{file} does not load: {error}; if it is damaged, delete its folder") from None
    sys.modules[name] = module
    return module


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


def _key(library: Library) -> str:
    facts = [
        *(torch.__version__, torch.version.cuda, pybind11.__version__),
        *(sys.implementation.cache_tag, sysconfig.get_platform()),
        *(library.name, library.flags, os.environ.get("CXX")),
    ]
    digest = hashlib.sha256(repr(facts).encode())
    for path in library.sources:
        name = path.relative_to(library.root).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"torch-{torch.__version__}-{digest.hexdigest()[:16]}"


def _cpu_report() -> str:
    facts = build_facts()
    sets = facts["instruction_sets"]
    assert isinstance(sets, list)
    return (
        f"CPU operators: {facts['library']}\n"
        f"  compiled with {facts['compiler']}, {'with' if facts['openmp'] else 'without'} OpenMP, against PyTorch "
        f"{facts['torch']} and pybind11 {facts['pybind11']}\n"
        f"  running on {facts['instruction_set']} (this machine has {', '.join(sets)}), threads: {facts['threads']}"
    )


def _cuda_report() -> str:
    try:
        library("cuda")
    except ExtensionError as error:  # there need be no CUDA here; operators for it that do not compile are an error
        return f"CUDA operators: none ({error})"
    module = load("cuda")
    facts = module.build_facts()
    return (
        f"CUDA operators: {module.__file__}\n"
        f"  compiled with CUDA {facts['cuda_toolkit']} for compute capability {facts['cuda_architectures']}"
    )


def main() -> int:
    try:
        print(_cpu_report())
        print(_cuda_report())
    except PilotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
