"""The sizes of any model, read from its config."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pilot.errors import PilotError
from pilot.interventions import head_counts


@dataclass(frozen=True)
class ModelSizes:
    """What the inputs of a model have to fit.

    context   the longest sequence; None: the config names no limit
    """

    n_layers: int
    n_heads: int
    head_dim: int
    vocab_size: int
    context: int | None

    @classmethod
    def of(cls, model: nn.Module) -> ModelSizes:
        """By the names of pilot.models.transformer.ModelConfig or of Hugging Face configs.

        Raises PilotError for a model whose config does not tell.
        """
        n_layers, n_heads = head_counts(model)
        config = model.config
        head_dim = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // n_heads
        vocab_size = getattr(config, "vocab_size", None)
        if not head_dim or vocab_size is None:
            raise PilotError(f"{type(config).__name__} does not say the size of a head or of the vocabulary")
        context = getattr(config, "context", getattr(config, "max_position_embeddings", None))
        return cls(n_layers, n_heads, head_dim, vocab_size, context)
