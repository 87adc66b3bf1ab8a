"""`branched_mlp`: what the branches of a node of the trie (pilot.sweep.plan) leave behind a layer's MLP.

A state is a row of the residual stream x and, beside it, of the MLP's inputs x @ mlp_in (pilot.sweep.lowering). What a
patched head adds to it is a term; a branch is a choice of terms. From there on the branches differ: the norm, the
activation, the MLP's second product and the residual are what this computes.

Shapes: N nodes, C branches of each, B pairs, W positions, K terms, d d_model, m d_mlp, h inputs of the MLP: m, or 2 m
where it is gated.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from pilot.ops.checks import check_alike, check_shapes, dtype_name
from pilot.ops.norms import inverse_rms
from pilot.ops.registration import register

Activation = Literal["gelu", "gelu_tanh", "silu_gated", "gelu_tanh_gated"]


def branched_mlp(
    state: Tensor,
    terms: Tensor,
    member: Tensor,
    in_bias: Tensor | None,
    out_bias: Tensor | None,
    mlp_out: Tensor,
    eps: float,
    activation: Activation,
    *,
    out: Tensor,
) -> None:
    """The residual stream behind the MLP, for every branch.

    Equivalent to:  added = torch.einsum("cbwk,knbws->ncbws", member.to(state.dtype), terms)
                    x, inputs = (state.unsqueeze(1) + added).split([d, h], dim=-1)
                    inputs = inputs * rsqrt(x.square().mean(-1, keepdim=True) + eps) + in_bias
                    gate, up = inputs.chunk(2, dim=-1)                                # if gated, else
                    hidden = act(gate) * up                                           # act(inputs)
                    out[:] = x + out_bias + hidden @ mlp_out

    state        (N, B, W, d + h)       the last dimension of each tensor of numbers is contiguous; strides of the
    terms        (K, N, B, W, d + h)    others are free
    member       (C, B, W, K) bool      True: the branch adds the term; on the CPU, any strides
    in_bias      (h,)                   None: 0
    out_bias     (d,)                   None: 0
    mlp_out      (m, d)
    eps          added to the mean square
    activation   "gelu" (with the error function), "gelu_tanh" (its approximation with tanh), "silu_gated",
                 "gelu_tanh_gated"
    out          (N, C, B, W, d)        written; shares no memory with state, terms or mlp_out

    NaN or infinity in a term does not reach a branch that does not add it, nor that of a row another row. On a CPU, in
    float32 or float64, a branch has the same bits whatever is computed with it, and with any number of threads. There
    is no gradient. On CUDA, in 16-bit types, sums are made in float32, and hidden units rounded for the product.

    Raises ValueError or TypeError for arguments that do not fit.
    """
    _branched_mlp(state, terms, member, in_bias, out_bias, mlp_out, eps, activation, out=out)


@torch.no_grad()
def eager_branched_mlp(
    state: Tensor,
    terms: Tensor,
    member: Tensor,
    in_bias: Tensor | None,
    out_bias: Tensor | None,
    mlp_out: Tensor,
    eps: float,
    activation: Activation,
    *,
    out: Tensor,
) -> None:
    """`branched_mlp` in PyTorch: the operator's oracle, and what runs where it has no kernel."""
    _check(state, terms, member, in_bias, out_bias, mlp_out, eps, activation, out=out)
    d = mlp_out.shape[1]
    totals = branch_totals(state, terms, member)
    x, inputs = totals[..., :d], totals[..., d:]
    scale = inverse_rms(x, eps)
    inputs = inputs * scale if in_bias is None else torch.addcmul(in_bias, inputs, scale)
    torch.add(x, 0 if out_bias is None else out_bias, out=out)
    out += _activated(inputs, activation) @ mlp_out


def branch_totals(state: Tensor, terms: Tensor, member: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The state (N, B, W, j) and the terms (K, N, B, W, j) that each branch adds to it: (N, C, B, W, j), in `out`.

    A branch begins with what has been added up for a branch before it, where that lacks one term at most.
    """
    rows = member.flatten(1, 2)
    some, everywhere = rows.any(1).tolist(), rows.all(1).tolist()  # (C, K)
    totals = state.new_empty(state.shape[0], len(member), *state.shape[1:]) if out is None else out
    done: dict[tuple[int, ...], Tensor] = {(): state}
    for c, total in enumerate(totals.unbind(1)):
        whole = tuple(k for k, adds in enumerate(everywhere[c]) if adds)
        known = next(added for added in (whole, whole[:-1], ()) if added in done)
        missing = whole[len(known) :]
        if missing:
            torch.add(done[known], terms[missing[0]], out=total)
        else:
            total.copy_(done[known])
        for k in missing[1:]:
            total += terms[k]
        if some[c] == everywhere[c]:
            done[whole] = total
            continue
        for k, adds in enumerate(some[c]):
            if adds and k not in whole:
                total += terms[k].where(member[c, ..., k, None].to(terms.device), 0)
    return totals


def _activated(inputs: Tensor, activation: Activation) -> Tensor:
    """The hidden units (..., m) of inputs (..., h), which it may overwrite."""
    if not activation.endswith("_gated"):
        torch.ops.aten.gelu_(inputs, approximate="none" if activation == "gelu" else "tanh")
        return inputs
    gate, up = inputs.chunk(2, dim=-1)
    gate = F.silu(gate) if activation == "silu_gated" else F.gelu(gate, approximate="tanh")
    return gate.mul_(up)


def _check(
    state: Tensor,
    terms: Tensor,
    member: Tensor,
    in_bias: Tensor | None,
    out_bias: Tensor | None,
    mlp_out: Tensor,
    eps: float,
    activation: str,
    *,
    out: Tensor,
) -> None:
    if activation not in get_args(Activation):
        raise ValueError(f"activation must be one of {', '.join(get_args(Activation))}, not {activation!r}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and not negative, not {eps}")
    sizes = check_shapes({}, mlp_out=(mlp_out, "m d"))
    h = sizes["m"] * (2 if activation.endswith("_gated") else 1)
    check_shapes(
        {**sizes, "h": h, "d+h": sizes["d"] + h},
        state=(state, "N B W d+h"),
        terms=(terms, "K N B W d+h"),
        member=(member, "C B W K"),
        in_bias=(in_bias, "h"),
        out_bias=(out_bias, "d"),
        out=(out, "N C B W d"),
    )
    check_alike("state", state=state, terms=terms, in_bias=in_bias, out_bias=out_bias, mlp_out=mlp_out, out=out)
    if member.dtype != torch.bool or member.device.type not in ("cpu", "meta"):
        raise TypeError(f"member must be bool on the CPU, not {dtype_name(member.dtype)} on {member.device}")


_branched_mlp = register(
    "branched_mlp",
    "(Tensor state, Tensor terms, Tensor member, Tensor? in_bias, Tensor? out_bias, Tensor mlp_out, float eps, "
    "str activation, *, Tensor(a!) out) -> ()",
    eager_branched_mlp,
    _check,
)
