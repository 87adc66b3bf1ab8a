"""Which implementation of an operator runs: the fused one in csrc/, or its eager twin in PyTorch."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor

from pilot.errors import PilotError
from pilot.ops.checks import dtype_name

FUSED_DTYPES = {
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.bfloat16, torch.float16),
}


def runs_fused(impl: str, *tensors: Tensor) -> bool:
    """Whether `impl`, "auto", "fused" or "eager", means the fused operators for these tensors.

    "auto" does where they can run on a CPU (a build that fails is warned of once). On CUDA it does not, until the
    kernels have been tested on a GPU. Without tensors: for float32 on the CPU.

    Raises PilotError if `impl` is "fused" and they cannot run.
    """
    if impl not in ("auto", "fused", "eager"):
        raise PilotError(f"impl must be auto, fused or eager, not {impl!r}")
    device, dtype = (tensors[0].device.type, tensors[0].dtype) if tensors else ("cpu", torch.float32)
    if impl == "eager" or (impl == "auto" and device == "cuda"):
        return False
    reason = None
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        reason = "the fused operator has no gradient: use torch.no_grad(), or impl='eager'"
    elif dtype not in FUSED_DTYPES.get(device, ()):
        reason = f"the fused operator does not compute in {dtype_name(dtype)} on {device}: use impl='eager'"
    elif not torch.compiler.is_compiling():  # compiled code finds out when it runs: pilot.ops.registration
        reason = why_not_built(device, warn=impl == "auto")
    if impl == "fused" and reason is not None:
        raise PilotError(reason)
    return reason is None


@cache
def why_not_built(device: str, warn: bool) -> str | None:
    """None if there are kernels for this kind of device, else the reason, with one warning where that is wanted."""
    from pilot.ops import build  # here, so that `python -m pilot.ops.build` does not find it imported already

    reason = build.why_unavailable(device)
    if reason is not None and warn:
        warnings.warn(f"the operators run in eager PyTorch: {reason}", RuntimeWarning, stacklevel=4)
    return reason
