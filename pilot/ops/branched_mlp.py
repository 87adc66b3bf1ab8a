"""The MLP in every branch of a node: `branched_mlp`.

Shapes: N nodes, C branches of each, B pairs, W positions, K terms, d d_model, m d_mlp, h columns of the MLP's first
matrix: m, or 2 m where it is gated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pilot.ops.norms import inverse_rms


def branched_mlp(state, terms, member, in_bias, out_bias, mlp_out, eps, activation, *, impl="eager", out):
    total = branch_totals(state, terms, member, out=state.new_empty(len(state), *member.shape[:3], state.shape[-1]))
    d = mlp_out.shape[1]
    x, inputs = total[..., :d], total[..., d:]
    inputs = inputs * inverse_rms(x, eps)
    if in_bias is not None:
        inputs += in_bias
    if activation == "gelu":
        hidden = F.gelu(inputs)
    elif activation == "gelu_tanh":
        hidden = F.gelu(inputs, approximate="tanh")
    else:
        gate, up = inputs.chunk(2, dim=-1)
        hidden = (F.silu(gate) if activation == "silu_gated" else F.gelu(gate, approximate="tanh")) * up
    torch.matmul(hidden, mlp_out, out=out)
    out += x
    if out_bias is not None:
        out += out_bias


def branch_totals(state: Tensor, terms: Tensor, member: Tensor, *, out: Tensor) -> Tensor:
    """The state (N, B, W, j) and the terms (K, N, B, W, j) that each branch adds to it, in out (N, C, B, W, j).

    member (C, B, W, K) bool. A branch begins with what has been added up for a branch before it, where that lacks one
    term at most.
    """
    rows = member.flatten(1, 2)
    some, everywhere = rows.any(1).tolist(), rows.all(1).tolist()  # (C, K)
    done: dict[tuple[int, ...], Tensor] = {(): state}
    for c, total in enumerate(out.unbind(1)):
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
    return out
