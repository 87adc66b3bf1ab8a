"""What the branches of a node of the trie (pilot.sweep.plan) make of a layer's state: `branched_hidden`.

A state is a row of the residual stream x and, beside it, of the MLP's input x @ mlp_in (pilot.sweep.folded). What a
patched head adds to it is a term; a branch is a choice of terms. This is all that lies between two matrix products: the
one that makes the terms, and the MLP's second.

Shapes: N nodes, C branches of each, B pairs, W positions, K terms, d d_model, m d_mlp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pilot.ops.branched_mlp import branch_totals
from pilot.ops.checks import check_branched_hidden
from pilot.ops.dispatch import which_impl
from pilot.ops.norms import inverse_rms


def branched_hidden(
    state: Tensor,
    terms: Tensor,
    member: Tensor,
    in_bias: Tensor,
    out_bias: Tensor,
    eps: float,
    *,
    impl: str = "auto",
    hidden: Tensor,
    after: Tensor,
) -> None:
    """The MLP's hidden units, and what its output is added to, for every branch.

    Equivalent to:  added = torch.einsum("cbwk,knbws->ncbws", member.to(state.dtype), terms)
                    total = state.unsqueeze(1) + added
                    x, inputs = total.split([d, m], dim=-1)
                    hidden[:] = gelu(inputs * rsqrt(x.square().mean(-1, keepdim=True) + eps) + in_bias)
                    after[:] = x + out_bias

    state     (N, B, W, d + m)        strided views welcome, last dim contiguous
    terms     (K, N, B, W, d + m)     likewise
    member    (C, B, W, K) bool       True: the branch adds the term; on the CPU
    in_bias   (m,), out_bias (d,)
    eps       added to the mean square
    impl      "auto", "fused" or "eager", as for pilot.ops.patched_attention; on CUDA "fused" is eager, too: there is no
              kernel for it
    hidden    (N, C, B, W, m)         written; contiguous
    after     (N, C, B, W, d)         written; contiguous

    NaN or infinity in a term does not reach a branch that does not add it. There is no gradient.

    Raises ValueError or TypeError for arguments that do not fit, and PilotError for "fused" where it cannot run.
    """
    arguments = (state, terms, member, in_bias, out_bias, eps)
    if which_impl(impl, state, terms, in_bias, out_bias) == "fused" and state.device.type == "cpu":
        torch.ops.pilot.branched_hidden(*arguments, hidden=hidden, after=after)
    else:
        eager_branched_hidden(*arguments, hidden=hidden, after=after)


@torch.no_grad()
def eager_branched_hidden(
    state: Tensor,
    terms: Tensor,
    member: Tensor,
    in_bias: Tensor,
    out_bias: Tensor,
    eps: float,
    *,
    hidden: Tensor,
    after: Tensor,
) -> None:
    """`branched_hidden` in PyTorch: the operator's oracle, and its stand-in where it does not build, and on CUDA."""
    check_branched_hidden(state, terms, member, in_bias, out_bias, eps, hidden=hidden, after=after)
    d = out_bias.shape[0]
    totals = branch_totals(state, terms, member)
    x, inputs = totals[..., :d], totals[..., d:]
    torch.addcmul(in_bias, inputs, inverse_rms(x, eps), out=hidden)
    torch.ops.aten.gelu_(hidden)
    torch.add(x, out_bias, out=after)


# The operator in torch.ops.pilot, which csrc/branched_hidden implements for the CPU.
torch.library.define(
    "pilot::branched_hidden",
    "(Tensor state, Tensor terms, Tensor member, Tensor in_bias, Tensor out_bias, float eps, *, "
    "Tensor(a!) hidden, Tensor(b!) after) -> ()",
)
torch.library.register_fake("pilot::branched_hidden", check_branched_hidden)
