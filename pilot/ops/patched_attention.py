"""`patched_attention`: causal attention with fan-out of its rows and in-place head replacement.

Shapes: P rows of q, k, v; C rows after fan-out; S donor rows; Tq queries, the last of Tk positions; H heads on H_kv key
and value heads; D head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pilot.errors import PilotError
from pilot.models.attention import causal_attention
from pilot.ops.checks import check_arguments, check_indexes
from pilot.ops.dispatch import which_impl


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
    impl                            "fused": the operator in csrc/; "eager": PyTorch; "auto": fused where it can run,
                                    but not on CUDA until it has been tested on a GPU (pilot.ops.dispatch)
    out         (C, Tq, H, D)       written and returned instead of a fresh tensor; contiguous
    returns     (C, Tq, H, D)       contiguous

    Attention is computed once for each parent and head, and (fused) not at all where every child replaces it. A
    replaced value is copied bit for bit, and NaN or infinity in q, k or v of a head stays in that head, and in its
    parent. Within a head, NaN or infinity in v at a later position stays out of earlier queries on the CPU (fused)
    only: on CUDA and in PyTorch it is multiplied by their weight of 0.

    The operator has no gradient: where one is asked for, "auto" is eager and "fused" raises.

    Raises ValueError, TypeError or IndexError for arguments that do not fit, and PilotError for "fused" where it cannot
    run and for gradients into `out`.
    """
    arguments = (q, k, v, source, parent, source_row, replace)
    if out is not None and torch.is_grad_enabled() and any(x.requires_grad for x in (*arguments[:4], out)):
        raise PilotError("patched_attention writes no gradients into out: leave out away, or use torch.no_grad()")
    if which_impl(impl, *arguments[:4]) == "eager":
        return eager_patched_attention(*arguments, scale=scale, out=out)
    if out is None:
        z: Tensor = torch.ops.pilot.patched_attention(*arguments, scale=scale)
        return z
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
    check_arguments(q, k, v, source, parent, source_row, replace, scale=scale, out=out)
    check_indexes(q, source, parent, source_row)
    z = causal_attention(q, k, v, scale=scale)  # (P, Tq, H, D)
    z = z.index_select(0, parent)  # (C, Tq, H, D)
    donors = source.index_select(0, source_row)  # (C, Tq, H, D)
    return torch.where(replace.unsqueeze(-1), donors, z, out=out)


def _fake(q: Tensor, *others: Tensor, scale: float | None = None) -> Tensor:
    check_arguments(q, *others, scale=scale)
    parent = others[3]
    return q.new_empty((parent.shape[0], *q.shape[1:]))


# The operators in torch.ops.pilot, which csrc/patched_attention implements for each device.
_TENSORS = "Tensor q, Tensor k, Tensor v, Tensor source, Tensor parent, Tensor source_row, Tensor replace"
torch.library.define("pilot::patched_attention", f"({_TENSORS}, *, float? scale=None) -> Tensor")
torch.library.define("pilot::patched_attention_out", f"({_TENSORS}, *, float? scale=None, Tensor(a!) out) -> ()")
torch.library.register_fake("pilot::patched_attention", _fake)
torch.library.register_fake("pilot::patched_attention_out", check_arguments)
