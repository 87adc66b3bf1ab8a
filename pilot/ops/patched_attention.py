"""`patched_attention`: causal attention with fan-out of its rows and in-place head replacement.

Shapes: P rows of q, k, v; C rows after fan-out; S donor rows; Tq queries, the last of Tk positions; H heads on H_kv key
and value heads; D head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pilot.errors import PilotError
from pilot.models.attention import causal_attention
from pilot.ops.checks import check_alike, check_attention, check_shapes, dtype_name
from pilot.ops.dispatch import runs_fused
from pilot.ops.registration import register


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

    Attention is computed once for each parent and head, and (fused; on CUDA, up to 64 keys) not at all where every
    child replaces it. A replaced value is copied bit for bit, and NaN or infinity in q, k or v of a head stays in that
    head, and in its parent. Within a head, NaN or infinity in k or v at a later position stays out of earlier queries
    on the CPU (fused) only: elsewhere it is multiplied by their weight of 0.

    The operator has no gradient: where one is asked for, "auto" is eager and "fused" raises.

    Raises ValueError, TypeError or IndexError for arguments that do not fit, and PilotError for "fused" where it cannot
    run and for gradients into `out`.
    """
    arguments = (q, k, v, source, parent, source_row, replace)
    if out is not None and torch.is_grad_enabled() and any(x.requires_grad for x in (*arguments[:4], out)):
        raise PilotError("patched_attention writes no gradients into out: leave out away, or use torch.no_grad()")
    if not runs_fused(impl, *arguments[:4]):
        return eager_patched_attention(*arguments, scale=scale, out=out)
    if out is None:
        out = q.new_empty(parent.shape[:1] + q.shape[1:])
    _patched_attention(*arguments, scale=scale, out=out)
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
    """`patched_attention` in PyTorch: the operator's oracle, and what runs where it has no kernel."""
    _check(q, k, v, source, parent, source_row, replace, scale=scale, out=out)
    _check_range("parent", parent, "q", len(q))
    _check_range("source_row", source_row, "source", len(source))
    z = causal_attention(q, k, v, scale=scale)  # (P, Tq, H, D)
    z = z.index_select(0, parent)  # (C, Tq, H, D)
    donors = source.index_select(0, source_row)  # (C, Tq, H, D)
    return torch.where(replace.unsqueeze(-1), donors, z, out=out)


def _check(
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
) -> None:
    sizes = check_attention(q, k, v, scale, out)
    sizes |= check_shapes(
        {letter: sizes[letter] for letter in ("Tq", "H", "D")},
        source=(source, "S Tq H D"),
        parent=(parent, "C"),
        source_row=(source_row, "C"),
        replace=(replace, "C Tq H"),
        out=(out, "C Tq H D"),
    )
    check_alike("q", q=q, source=source)
    for name, x, dtype in (
        ("parent", parent, torch.int64),
        ("source_row", source_row, torch.int64),
        ("replace", replace, torch.bool),
    ):
        if x.dtype != dtype:
            raise TypeError(f"{name} must be {dtype_name(dtype)}, not {dtype_name(x.dtype)}")
        if x.device != q.device:
            raise ValueError(f"{name} is on {x.device}, but q is on {q.device}")
    for name, of, letter in (("parent", "q", "P"), ("source_row", "source", "S")):
        if sizes["C"] and not sizes[letter]:
            raise IndexError(f"{name} has {sizes['C']} entries, but {of} has no rows")


def _check_range(name: str, index: Tensor, of: str, rows: int) -> None:
    """Raises IndexError for an index out of range. On the CPU only: elsewhere, looking would wait for the device."""
    if index.device.type != "cpu":
        return
    outside = ((index < 0) | (index >= rows)).nonzero()
    if len(outside):
        c = int(outside[0])
        raise IndexError(f"{name}[{c}] is {int(index[c])}, but {of} has {rows} rows")


_patched_attention = register(
    "patched_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor source, Tensor parent, Tensor source_row, Tensor replace, *, "
    "float? scale=None, Tensor(a!) out) -> ()",
    eager_patched_attention,
    _check,
)
