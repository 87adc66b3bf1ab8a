"""Language models from Hugging Face: loading, their attention with heads replaced, and pairs of text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pilot.language.extra import require_transformers
from pilot.language.load import load_model, load_tokenizer

if TYPE_CHECKING:
    from pilot.language.attention import head_patches, register

__all__ = ["head_patches", "load_model", "load_tokenizer", "register"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # what needs transformers, imported on first use
        require_transformers()
        return getattr(import_module("pilot.language.attention"), name)
    raise AttributeError(f"module 'pilot.language' has no attribute {name!r}")
