"""What a patch makes of a layer: three kinds of layer, by what stands between a head's output and the next layer.

A head patch adds (z of the donor - z) @ W_O[head] to what attention writes. Up to the next thing that is not linear,
what branches add can be worked out once for each head and summed branch by branch: a `term`, added to a `state` that
all branches of a node share. How far that reaches tells the kinds apart:

    FoldedLayer     norms stand in front of attention and MLP only, and are folded (pilot.sweep.program). Terms reach
                    into the MLP, through its first matrix up to its activation
    ParallelLayer   the MLP reads what enters the layer, so a patch passes it by: terms are all that a branch adds
    NormedLayer     norms stand behind attention or MLP: terms reach to the norm, and each branch pays for the MLP

Shapes: N nodes, C branches of each, B pairs, W positions, K heads, d d_model, m' columns of the MLP's first matrix,
H heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pilot.ops.branched_mlp import branch_totals
from pilot.ops.norms import inverse_rms
from pilot.sweep.buffers import Buffer, LayerBuffers, Scratch
from pilot.sweep.operators import Operators
from pilot.sweep.program import LayerProgram


class Layer(Protocol):
    """One layer behind its heads. Tensors are in the buffers that are given, good until these are used again.

    columns, term_columns   numbers in a row of a state, and of a term
    """

    program: LayerProgram
    columns: int
    term_columns: int

    def state(self, x: Tensor, z: Tensor, buffers: LayerBuffers, scratch: Scratch) -> Tensor:
        """What all branches share: x (N, B, W, d) entered the layer, z (N, B, W, H, D) -> (N, B, W, columns)."""

    def terms(self, heads: Sequence[int], donor: Tensor, z: Tensor, buffers: LayerBuffers, scratch: Scratch) -> Tensor:
        """What the donor's z adds, head by head: donor and z (N or 1, B or 1, W, H, D) -> (K, N, B, W, ...)."""

    def after(self, state: Tensor, terms: Tensor, member: Tensor, buffer: Buffer, scratch: Scratch) -> Tensor:
        """The residual stream behind the layer in each branch; member (C, B, W, K) -> (N, C, B, W, d)."""


def layer_of(program: LayerProgram, operators: Operators) -> Layer:
    """The layer of a program as the kind that it is."""
    if program.attention.norm is not None or program.mlp.norm is not None:
        return NormedLayer(program, operators)
    return ParallelLayer(program, operators) if program.parallel else FoldedLayer(program, operators)


class _Layer:
    """What the kinds share. What each head's difference is multiplied by is worked out when it is first patched."""

    def __init__(self, program: LayerProgram, columns: int, operators: Operators):
        self.program, self._operators = program, operators
        by_head = (program.attention.n_heads, program.attention.head_dim)
        self._out = program.attention.out.weight.unflatten(0, by_head)  # (H, D, d)
        self.term_columns = columns
        self._writes: dict[int, Tensor] = {}

    def _writes_of(self, head: int) -> Tensor:
        """What a head's z adds to a state: (D, columns)."""
        out: Tensor = self._out[head]
        return out

    def terms(self, heads: Sequence[int], donor: Tensor, z: Tensor, buffers: LayerBuffers, scratch: Scratch) -> Tensor:
        difference = scratch.difference(*z.shape[:3], z.shape[-1])
        terms = buffers.terms(len(heads), *z.shape[:3], self.term_columns)
        for head, term in zip(heads, terms, strict=True):
            if head not in self._writes:
                self._writes[head] = self._writes_of(head)
            torch.sub(donor[..., head, :], z[..., head, :], out=difference)
            rows = difference.view(-1, z.shape[-1])
            self._operators.product(rows, self._writes[head], out=term.view(-1, self.term_columns))
        return terms

    def _attended(self, x: Tensor | None, z: Tensor, out: Tensor) -> Tensor:
        """x + what attention writes of z (..., H, D), written to `out` (..., d), whose rows may be apart."""
        weight, bias = self.program.attention.out.weight, self.program.attention.out.bias
        if x is None:
            out[:] = 0 if bias is None else bias
        elif bias is None:
            out.copy_(x)
        else:
            torch.add(x, bias, out=out)
        self._operators.product(z.reshape(-1, weight.shape[0]), weight, add=True, out=out.view(-1, out.shape[-1]))
        return out

    def _mlp(self, x: Tensor, scratch: Scratch) -> Tensor:
        """What the MLP writes where it reads x (..., d): (..., d)."""
        mlp, apply = self.program.mlp, self._operators.apply
        normed = torch.mul(x, inverse_rms(x, mlp.eps), out=scratch.normed(*x.shape))
        return apply(mlp.write, mlp.hidden(apply(mlp.read, normed, scratch.inputs)), scratch.written)


class FoldedLayer(_Layer):
    """The state is the residual stream behind attention, and beside it what the MLP's first matrix makes of it."""

    def __init__(self, program: LayerProgram, operators: Operators):
        self.columns = sum(program.mlp.read.weight.shape)
        super().__init__(program, self.columns, operators)

    def _writes_of(self, head: int) -> Tensor:
        out = self._out[head]
        return torch.cat([out, out @ self.program.mlp.read.weight], dim=1)

    def state(self, x: Tensor, z: Tensor, buffers: LayerBuffers, scratch: Scratch) -> Tensor:
        d_model = x.shape[-1]
        state = buffers.state(*x.shape[:-1], self.columns)
        self._attended(x, z, state[..., :d_model])
        rows = state.view(-1, self.columns)
        self._operators.product(rows[:, :d_model], self.program.mlp.read.weight, out=rows[:, d_model:])
        return state

    def after(self, state: Tensor, terms: Tensor, member: Tensor, buffer: Buffer, scratch: Scratch) -> Tensor:
        mlp = self.program.mlp
        out = buffer(len(state), *member.shape[:3], mlp.write.weight.shape[1])
        self._operators.branched_mlp(
            state, terms, member, mlp.read.bias, mlp.write.bias, mlp.write.weight, mlp.eps, mlp.activation, out=out
        )
        return out


class ParallelLayer(_Layer):
    """The state is the residual stream behind the layer."""

    def __init__(self, program: LayerProgram, operators: Operators):
        self.columns = program.attention.out.weight.shape[1]
        super().__init__(program, self.columns, operators)

    def state(self, x: Tensor, z: Tensor, buffers: LayerBuffers, scratch: Scratch) -> Tensor:
        state = self._attended(x, z, buffers.state(*x.shape))
        return state.add_(self._mlp(x, scratch))

    def after(self, state: Tensor, terms: Tensor, member: Tensor, buffer: Buffer, scratch: Scratch) -> Tensor:
        return branch_totals(state, terms, member, out=buffer(len(state), *member.shape[:3], self.columns))


class NormedLayer(_Layer):
    """The state is the residual stream that enters the layer, and beside it what attention writes."""

    def __init__(self, program: LayerProgram, operators: Operators):
        d_model = program.attention.out.weight.shape[1]
        self.columns = 2 * d_model
        super().__init__(program, d_model, operators)

    def state(self, x: Tensor, z: Tensor, buffers: LayerBuffers, scratch: Scratch) -> Tensor:
        d_model = x.shape[-1]
        state = buffers.state(*x.shape[:-1], self.columns)
        state[..., :d_model] = x
        self._attended(None, z, state[..., d_model:])
        return state

    def after(self, state: Tensor, terms: Tensor, member: Tensor, buffer: Buffer, scratch: Scratch) -> Tensor:
        d_model, norm = self.columns // 2, self.program.attention.norm
        x, written = state.split(d_model, dim=-1)
        out = branch_totals(written, terms, member, out=buffer(len(state), *member.shape[:3], d_model))
        if norm is not None:
            out.mul_(inverse_rms(out, norm.eps)).mul_(norm.weight)
        out += x[:, None]
        mlp_norm, added = (
            self.program.mlp.norm,
            self._mlp(x[:, None] if self.program.parallel else out, scratch),
        )
        if mlp_norm is not None:
            added = added.mul_(inverse_rms(added, mlp_norm.eps)).mul_(mlp_norm.weight)
        return out.add_(added)
