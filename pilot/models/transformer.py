"""A small decoder-only transformer whose attention heads can be read and replaced.

Shapes: batch rows, seq positions, n_heads heads of head_dim each; d_model = n_heads * head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pilot.arithmetic.vocabulary import VOCAB_SIZE
from pilot.errors import PilotError
from pilot.models.attention import causal_attention

# (q, k, v, source, parent, source_row, replace) -> z, as pilot.ops.patched_attention
PatchedAttention = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor
]


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a model; the defaults have 0.67 M parameters."""

    n_layers: int = 4
    n_heads: int = 4
    d_model: int = 128
    d_mlp: int = 384
    context: int = 28
    vocab_size: int = VOCAB_SIZE

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PilotError(f"model.{name} must be a positive integer, not {value!r}")
        if self.d_model % self.n_heads:
            raise PilotError(f"model.d_model ({self.d_model}) must be a multiple of model.n_heads ({self.n_heads})")

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads


class Attention(nn.Module):
    """Causal self-attention whose heads can be read and patched through its attributes.

    last_head_output    z of the last forward in eval mode, as it entered W_O: (batch, seq, n_heads, head_dim); None
                        after a forward in train mode
    patch_head_index    the head to patch, or a tuple of heads; None: no patch
    patch_head_output   what to put there: (batch or 1, seq, head_dim), or (batch or 1, seq, n_patched, head_dim)
    patch_positions     slice of positions to patch, or a tuple with a slice for each patched head; None: all
    patched_attention   a function to compute z with, such as pilot.ops.patched_attention; None: PyTorch

    A forward raises PilotError for a patch that does not fit it.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)
        self.last_head_output: torch.Tensor | None = None
        self.patch_head_index: int | tuple[int, ...] | None = None
        self.patch_head_output: torch.Tensor | None = None
        self.patch_positions: slice | tuple[slice | None, ...] | None = None
        self.patched_attention: PatchedAttention | None = None

    def forward(self, x: torch.Tensor, read: torch.Tensor | None = None) -> torch.Tensor:
        """x (batch, seq, d_model) -> (batch, seq, d_model), or (n_read, d_model) at the positions `read`."""
        z = self._attend(*self.queries_keys_values(x))
        self.last_head_output = None if self.training else z
        z = z.flatten(2)
        written: torch.Tensor = self.out(z if read is None else z[read])
        return written

    def queries_keys_values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (batch, seq, d_model) -> three views (batch, seq, n_heads, head_dim)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, self.head_dim)).unbind(2)
        return q, k, v

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """z with the patch applied, (batch, seq, n_heads, head_dim)."""
        if self.patch_head_index is None and self.patched_attention is None:
            return causal_attention(q, k, v)
        source, replace = self._replacement(q)
        if self.patched_attention is None:
            return torch.where(replace.unsqueeze(-1), source, causal_attention(q, k, v))
        row = torch.arange(len(q), device=q.device)
        source_row = row if len(source) == len(q) else torch.zeros_like(row)
        return self.patched_attention(q, k, v, source, row, source_row, replace)

    def _replacement(self, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What replaces z, (batch or 1, seq, n_heads, head_dim), and where, (batch, seq, n_heads) bool."""
        batch, seq, n_heads, head_dim = q.shape
        replace = torch.zeros(batch, seq, n_heads, dtype=torch.bool, device=q.device)
        if self.patch_head_index is None:
            return q, replace  # nothing is taken from it
        heads = self.patch_head_index if isinstance(self.patch_head_index, tuple) else (self.patch_head_index,)
        for head in heads:
            if not 0 <= head < n_heads:
                raise PilotError(f"head {head} does not exist: the model has heads 0 to {n_heads - 1}")
        if self.patch_head_output is None:
            raise PilotError("patch_head_index is set but patch_head_output is not")
        given = self.patch_head_output.unsqueeze(2) if self.patch_head_output.dim() == 3 else self.patch_head_output
        if given.shape[0] not in (1, batch) or given.shape[1:] != (seq, len(heads), head_dim):
            raise PilotError(
                f"patch_head_output has shape {tuple(self.patch_head_output.shape)}; heads {heads} of this run need "
                f"({batch} or 1, {seq}, {len(heads)}, {head_dim})"
            )
        positions = self.patch_positions
        if not isinstance(positions, tuple):
            positions = (positions,) * len(heads)
        if len(positions) != len(heads):
            raise PilotError(f"patch_positions has {len(positions)} slices for {len(heads)} heads: give one for each")
        source = q.new_zeros(len(given), seq, n_heads, head_dim)
        for i, (head, where) in enumerate(zip(heads, positions, strict=True)):
            where = slice(None) if where is None else where
            source[:, where, head] = given[:, where, i]
            replace[:, where, head] = True
        return source, replace


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.ln1 = nn.LayerNorm(config.d_model)
        self.attn = Attention(config)
        self.ln2 = nn.LayerNorm(config.d_model)
        self.mlp_in = nn.Linear(config.d_model, config.d_mlp)
        self.mlp_out = nn.Linear(config.d_mlp, config.d_model)

    def forward(self, x: torch.Tensor, read: torch.Tensor | None = None) -> torch.Tensor:
        """x (batch, seq, d_model) -> (batch, seq, d_model), or (n_read, d_model) at the positions `read`."""
        x = (x if read is None else x[read]) + self.attn(self.ln1(x), read)
        x = x + self.mlp_out(F.gelu(self.mlp_in(self.ln2(x))))
        return x


class PilotTransformer(nn.Module):
    """Token and learned position embeddings, pre-norm blocks, final norm, unembedding."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.ln_final = nn.LayerNorm(config.d_model)
        self.unembed = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.apply(_initialise)

    def forward(self, input_ids: torch.Tensor, read: torch.Tensor | None = None) -> torch.Tensor:
        """input_ids (batch, seq) int64 -> logits (batch, seq, vocab).

        read   (batch, seq) bool: the positions whose logits are wanted. The logits are then (n_read, vocab), row by
               row, and the last layer computes nothing at the other positions that nobody reads.

        Raises PilotError for a sequence longer than the model's context.
        """
        seq = input_ids.shape[1]
        if seq > self.config.context:
            raise PilotError(f"a sequence of {seq} tokens does not fit the model's context of {self.config.context}")
        x = self.tokens(input_ids) + self.positions.weight[:seq]
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, read)
        logits: torch.Tensor = self.unembed(self.ln_final(x))
        return logits

    @property
    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
