"""Causal attention, and the same with fan-out and in-place head replacement: `patched_attention`.

Shapes: P rows of q, k, v; C rows after fan-out; S donor rows; Tq queries, the last of Tk positions; H heads on H_kv key
and value heads; D head_dim.
"""

from __future__ import annotations

import math
import warnings
from functools import cache

import torch
from torch import Tensor

from pilot import extension
from pilot.errors import PilotError
from pilot.operator_checks import check_arguments, check_indexes, dtype_name

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


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """Softmax attention in which a position sees itself and those before it.

    q         (batch, Tq, n_heads, head_dim)      the last Tq of Tk positions
    k, v      (batch, Tk, n_kv_heads, head_dim)   n_heads a multiple of n_kv_heads
    returns   (batch, Tq, n_heads, head_dim), contiguous

    Written out as matmul, softmax, matmul: at the 16-22 positions of this task that is faster on a CPU than
    torch.nn.functional.scaled_dot_product_attention.
    """
    pattern = attention_pattern(q, k, scale=scale)
    z = _by_kv_head(pattern, v.shape[2]) @ v.transpose(1, 2)
    return z.view(*pattern.shape[:3], v.shape[3]).transpose(1, 2).contiguous()


def attention_pattern(q: Tensor, k: Tensor, *, scale: float | None = None) -> Tensor:
    """How much each query attends to the keys up to its own position: (batch, n_heads, Tq, Tk), rows that add up to 1.

    q and k as for `causal_attention`.
    """
    batch, n_queries, n_heads, head_dim = q.shape
    n_keys = k.shape[1]
    future = torch.full((n_queries, n_keys), -math.inf, dtype=q.dtype, device=q.device).triu(n_keys - n_queries + 1)
    q = q.transpose(1, 2) * (1 / math.sqrt(head_dim) if scale is None else scale)
    scores = _by_kv_head(q, k.shape[2]) @ k.permute(0, 2, 3, 1)
    return (scores.view(batch, n_heads, n_queries, n_keys) + future).softmax(-1)


def _by_kv_head(x: Tensor, n_kv_heads: int) -> Tensor:
    """x (batch, n_heads, Tq, ...): the heads that share keys and values as if they were more queries of one head."""
    batch, n_heads, n_queries, last = x.shape
    return x.reshape(batch, n_kv_heads, n_heads // max(n_kv_heads, 1) * n_queries, last)


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
    reason = extension.why_unavailable(device)
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
