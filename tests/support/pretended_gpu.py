"""A GPU played by the CPU, to find what a GPU would refuse: tensors of two devices in one operation.

Within `pretended_gpu` tensors on "cuda" are wrappers that hold their values on the CPU. As on a GPU, an operation takes
tensors of one device only, save numbers in tensors of no dimension and indexes, and NumPy gets none of them. What the
kernels do there, streams and the backward pass are not played.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import pilot.ops
from support.project import no_compiler

aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}  # the operations that are there to take tensors of two devices
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}

# Says that there is a device of this kind, with nothing to do when it becomes the current one.
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
using Guard = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
"""


class OnGpu(torch.Tensor):
    """A tensor that says it is on cuda:0; `held`, on the CPU, has its values."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device="cuda:0", **layout)

    def __init__(self, held: torch.Tensor):
        self.held = held

    def __repr__(self):
        return f"OnGpu({self.held!r})"

    def tolist(self):
        return self.held.tolist()

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        raise AssertionError(
            f"{operation}: on the pretended GPU, but where it is not played: behind it, or in a thread"
        )


class PretendedGpu(TorchDispatchMode):
    """Sends every operation of this thread through the checks, and counts how often the CPU waits for the GPU."""

    def __init__(self):
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        known = {id(x.held): x for x in tensors if isinstance(x, OnGpu)}
        if operation.namespace == "pilot" and known:  # it has no kernel for the GPU: its eager twin runs, step by step
            with self:
                getattr(pilot.ops, f"eager_{operation.overloadpacket.__name__}")(*args, **kwargs)
            return None
        if operation not in MOVES and known:
            _check_one_device(operation, args, tensors)
        to = args[0].device if operation is aten.copy_.default else kwargs.get("device")
        on_gpu = bool(known) if to is None else torch.device(to).type == "cuda"

        kwargs = kwargs | ({"device": torch.device("cpu")} if kwargs.get("device") is not None else {})
        args, kwargs = tree_map(lambda x: x.held if isinstance(x, OnGpu) else x, (args, kwargs))
        result = operation(*args, **kwargs)

        def wrap(x):
            if not isinstance(x, torch.Tensor):
                return x
            return known[id(x)] if id(x) in known else OnGpu(x)

        result = tree_map(wrap, result) if on_gpu else result
        on_cpu = isinstance(result, (torch.Tensor, bool, int, float)) and not isinstance(result, OnGpu)
        self.waits += bool(known) and on_cpu
        return result


def _check_one_device(operation, args: tuple, tensors: list[torch.Tensor]) -> None:
    if operation in INDEXING:  # the indexes, args[1], may be on the CPU, but those of a tensor on the CPU must be
        tensors = [x for x in (args[0], *args[2:3]) if isinstance(x, torch.Tensor)]
        assert isinstance(args[0], OnGpu), f"{operation}: indexes on the GPU for a tensor on the CPU"
    strangers = [tuple(x.shape) for x in tensors if not isinstance(x, OnGpu) and x.dim() > 0]
    assert not strangers, f"{operation}: beside tensors on the GPU there are some on the CPU: {strangers}"


@contextmanager
def pretended_gpu(patch: pytest.MonkeyPatch) -> Iterator[PretendedGpu]:
    """Play a GPU, in this thread. Skips the test where there is no compiler for what that takes."""
    _load_guard()
    patch.setattr(torch.cuda, "_lazy_init", lambda: None)
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: 1)
    patch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**30, name="pretended")
    )
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a wrapper cannot go where a plain tensor was
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is made on the CPU, then moved
    try:
        with PretendedGpu() as gpu:
            yield gpu
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


@cache
def _load_guard() -> None:
    """Once in a process: it stays, and does nothing by itself."""
    if reason := no_compiler():
        pytest.skip(reason)
    torch_folder = Path(torch.__file__).parent
    with TemporaryDirectory() as folder:
        library = f"{folder}/guard.so"
        command = [os.environ.get("CXX", "c++"), "-std=c++20", "-shared", "-fPIC", "-x", "c++", "-"]
        command += [f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}", "-lc10", "-o", library]
        subprocess.run(command, input=GUARD, text=True, check=True)
        ctypes.CDLL(library)
