"""The end of every patched run: logits of the whole vocabulary, or of a few tokens of each pair.

Shapes: n runs, B pairs, R read positions, d d_model, V vocabulary, K tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pilot.sweep.buffers import Buffer
from pilot.sweep.operators import Operators
from pilot.sweep.program import Affine


@dataclass(frozen=True)
class Unembedding:
    """All of `whole`; or, where some tokens are chosen, the weights (B, d, K) and biases (B, 1, K) of these."""

    whole: Affine
    weight: Tensor | None = None
    bias: Tensor | None = None

    @classmethod
    def of(cls, whole: Affine, tokens: Tensor | None) -> Unembedding:
        """For pairs of which the tokens (B, K) are wanted; None: all."""
        if tokens is None:
            return cls(whole)
        bias = None if whole.bias is None else whole.bias[tokens].unsqueeze(1)
        return cls(whole, whole.weight[:, tokens].transpose(0, 1).contiguous(), bias)

    @property
    def width(self) -> int:
        """How many logits a position has."""
        return (self.whole.weight if self.weight is None else self.weight).shape[-1]

    def __call__(self, x: Tensor, operators: Operators, buffer: Buffer) -> Tensor:
        """x (n, B, R, d), normed -> (n, B, R, V or K), in a buffer."""
        if self.weight is None:
            return operators.apply(self.whole, x, buffer)
        by_pair = x.transpose(0, 1).flatten(1, 2)  # (B, n R, d)
        logits = torch.bmm(by_pair, self.weight, out=buffer(*by_pair.shape[:2], self.width))
        if self.bias is not None:
            logits += self.bias
        return logits.view(x.shape[1], x.shape[0], x.shape[2], self.width).transpose(0, 1)
