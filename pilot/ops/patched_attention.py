"""`patched_attention`: causal attention with fan-out of its rows and in-place head replacement.

Shapes: P rows of q, k, v; C rows after fan-out; S donor rows; Tq queries, the last of Tk positions; H heads on H_kv key
and value heads; D head_dim.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor

from pilot.errors import PilotError
from pilot.models.attention import causal_attention
from pilot.ops import build
from pilot.ops.checks import check_arguments, check_indexes, dtype_name

FUSED_DTYPES = {
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.bfloat16, torch.float16),
}


def patched_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    source: Tensor,
    parent: Tensor,
    source_row: Tensor,
    replace: Tensor,
    *,
    scale: float | None = None,
    impl: str = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """Causal attention, fan-out of its rows, and replacement of some heads' outputs, in one pass.

    Equivalent to:  torch.where(replace[..., None], source[source_row], causal_attention(q, k, v)[parent])

    q           (P, Tq, H, D)       strided views welcome, last dim contiguous
    k, v        (P, Tk, H_kv, D)    Tk >= Tq: queries are the last Tq positions; H a multiple of H_kv
    source      (S, Tq, H, D)       donors' z
    parent      (C,) int64          which q/k/v row each output row is computed from
    source_row  (C,) int64          which donor row it takes replacements from
    replace     (C, Tq, H) bool     True: take source, False: take attention
    scale                           what scores are multiplied by; None: 1 / sqrt(D)
    impl                            "fused": the operator in csrc/, PilotError where it cannot run; "eager": PyTorch;
                                    "auto": on a CPU fused where it can run (a build that fails is said once), else
                                    eager; on CUDA eager, until the kernels have been tested on a GPU
    out         (C, Tq, H, D)       written and returned instead of a fresh tensor; contiguous
    returns     (C, Tq, H, D)       contiguous

    Attention is computed once for each parent and head, and (fused) not at all where every child replaces it. A
    replaced value is copied bit for bit. The operator has no gradient: where one is asked for, "auto" is eager and
    "fused" raises.
    """
    arguments = (q, k, v, source, parent, source_row, replace)
    if out is not None and torch.is_grad_enabled() and any(x.requires_grad for x in (*arguments[:4], out)):
        raise PilotError("patched_attention writes no gradients into out: leave out away, or use torch.no_grad()")
    if which_impl(impl, *arguments[:4]) == "eager":
        return eager_patched_attention(*arguments, scale=scale, out=out)
    if out is None:
        return torch.ops.pilot.patched_attention(*arguments, scale=scale)
    torch.ops.pilot.patched_attention_out(*arguments, scale=scale, out=out)
    return out


def eager_patched_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    source: Tensor,
    parent: Tensor,
    source_row: Tensor,
    replace: Tensor,
    *,
    scale: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`patched_attention` in PyTorch: the operator's oracle, and its stand-in where it does not build."""
    check_arguments(q, k, v, source, parent, source_row, replace, scale, out)
    check_indexes(q, source, parent, source_row)
    z = causal_attention(q, k, v, scale=scale)  # (P, Tq, H, D)
    z = z.index_select(0, parent)  # (C, Tq, H, D)
    donors = source.index_select(0, source_row)  # (C, Tq, H, D)
    return torch.where(replace.unsqueeze(-1), donors, z, out=out)


def which_impl(impl: str, *tensors: Tensor) -> str:
    """The implementation, "fused" or "eager", that patched_attention(..., impl=impl) takes for these q, k, v, source.

    Without tensors: for float32 on the CPU. Raises PilotError if `impl` is "fused" and it cannot run.
    """
    if impl not in ("auto", "fused", "eager"):
        raise PilotError(f"impl must be auto, fused or eager, not {impl!r}")
    device, dtype = (tensors[0].device.type, tensors[0].dtype) if tensors else ("cpu", torch.float32)
    # The CUDA kernels have been tested on an emulation only: until tests/test_cuda.py has passed on a GPU they run
    # where they are asked for by name.
    if impl == "eager" or (impl == "auto" and device == "cuda"):
        return "eager"
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        reason = "the fused operator has no gradient: use torch.no_grad(), or impl='eager'"
    elif dtype not in FUSED_DTYPES.get(device, ()):
        reason = f"the fused operator does not compute in {dtype_name(dtype)} on {device}: use impl='eager'"
    else:
        reason = _why_not_built(device, impl == "auto")
    if impl == "fused" and reason is not None:
        raise PilotError(reason)
    return "fused" if reason is None else "eager"


def _why_not_built(device: str, warn: bool) -> str | None:
    return _why_not_built_cached(device, warn)


# What torch.compiler.assume_constant_result does, without the second that importing torch._dynamo takes: torch.compile
# asks once, while tracing, and does not follow the builder. It would look through a cache, hence two functions.
_why_not_built._dynamo_marked_constant = True


@cache
def _why_not_built_cached(device: str, warn: bool) -> str | None:
    """None if the operator is there for this kind of device, else the reason, with one warning where that is wanted."""
    reason = build.why_unavailable(device)
    if reason is None:
        _register_fakes()
    elif warn:
        warnings.warn(f"patched_attention runs in eager PyTorch: {reason}", RuntimeWarning, stacklevel=5)
    return reason


def _fake(q, k, v, source, parent, source_row, replace, *, scale=None):
    check_arguments(q, k, v, source, parent, source_row, replace, scale, None)
    return q.new_empty((parent.shape[0], *q.shape[1:]))


def _fake_out(q, k, v, source, parent, source_row, replace, *, scale=None, out):
    check_arguments(q, k, v, source, parent, source_row, replace, scale, out)


@cache
def _register_fakes() -> None:
    """Tells torch.compile the operators' shapes; once, when there are operators to tell it about."""
    torch.library.register_fake("pilot::patched_attention", _fake)
    torch.library.register_fake("pilot::patched_attention_out", _fake_out)
