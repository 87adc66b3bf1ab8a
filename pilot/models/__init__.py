"""Transformers: the small one that is trained here, its checkpoints, and hooks that read and replace head outputs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pilot.models.checkpoint import load_model, save_model
from pilot.models.transformer import ModelConfig, PilotTransformer

if TYPE_CHECKING:
    from pilot.models.hooks import head_outputs, replaced

__all__ = ["ModelConfig", "PilotTransformer", "head_outputs", "load_model", "replaced", "save_model"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # one of the hooks, imported on first use: training does not run the code of interventions
        return getattr(import_module("pilot.models.hooks"), name)
    raise AttributeError(f"module 'pilot.models' has no attribute {name!r}")
