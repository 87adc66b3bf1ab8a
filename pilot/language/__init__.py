"""Language models from Hugging Face: their attention with heads replaced, loading, and pairs of text."""

from pilot.language.attention import head_patches, register

__all__ = ["head_patches", "register"]
