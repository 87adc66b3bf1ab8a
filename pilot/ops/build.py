"""Builds and loads the operators in csrc/: those for the CPU on their first use, those for CUDA on theirs.

    python -m pilot.ops.build     builds them now rather than on first use, and prints what was built

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
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from pilot.errors import PilotError
from pilot.ops.toolchain import ExtensionError, Library, cuda_architectures, library, require_tools

# Seconds to wait for another process that is compiling. If it dies its lock goes with it: this is for one that hangs.
LOCK_TIMEOUT = 900


@cache
def _loaded(device: str) -> ModuleType | ExtensionError:
    """The module, or why there is none: found out once in a process."""
    try:
        if device != "cpu":
            load()  # it declares the operators
        return _load_or_build(library(device))
    except ExtensionError as error:
        return error


def load(device: str = "cpu") -> ModuleType:
    """The module compiled for "cpu" or "cuda"; torch.ops.pilot computes there from here on. Raises ExtensionError."""
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
    # It warns where there is a CUDA toolkit and no GPU, which is no mistake.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils import cpp_extension

    require_tools(cpp_extension.get_cxx_compiler())
    # PyTorch's builder has a lock file of its own, and waits for ever for one that a killed build left behind. We hold
    # the outer lock, so nobody else is in there.
    (folder / "lock").unlink(missing_ok=True)
    what = "operators" if library.cuda_home is None else "CUDA operators"
    print(f"pilot: compiling the {what}, once, into {folder} ...", file=sys.stderr, flush=True)
    if library.cuda_home:
        cpp_extension.CUDA_HOME = str(library.cuda_home)  # its own guess follows no links, and may have no nvcc
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", cuda_architectures())
    files = [str(path) for path in library.sources if path.suffix in (".cpp", ".cu")]
    try:
        cpp_extension.load(library.name, files, build_directory=str(folder), **library.flags)
    except (RuntimeError, ImportError, OSError) as error:
        log = folder / "build.log"
        log.write_text(str(error), encoding="utf-8")
        found = re.search(r"^.*(error:|error C\d+:|nvcc fatal|undefined reference).*$", str(error), re.MULTILINE)
        reason = found.group(0).strip() if found else str(error).rstrip().splitlines()[-1]
        raise ExtensionError(f"the {what} did not compile: {reason} (all of it: {log})") from None


def _import(name: str, file: Path) -> ModuleType:
    try:
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
        return module
    except (ImportError, OSError) as error:
        raise ExtensionError(f"{file} does not load: {error}; if it is damaged, delete its folder") from None


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
    facts = [torch.__version__, torch.version.cuda, sys.implementation.cache_tag, sysconfig.get_platform()]
    facts += [library.name, library.flags, os.environ.get("CXX")]
    digest = hashlib.sha256(repr(facts).encode())
    for path in library.sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"torch-{torch.__version__}-{digest.hexdigest()[:16]}"


def _cuda_facts() -> dict[str, object]:
    """The same for CUDA. That there can be none here is a fact, too; that it does not compile is an error."""
    try:
        library("cuda")
    except ExtensionError as error:
        return {"cuda": f"none: {error}"}
    return load("cuda").build_facts()


def main() -> int:
    try:
        facts = build_facts() | _cuda_facts()
    except PilotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in facts.items():
        print(f"{name:>20}  {', '.join(value) if isinstance(value, list) else value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
