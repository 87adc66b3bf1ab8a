"""Transformers: the small one that is trained here, its checkpoints, and hooks that read and replace head outputs."""

from pilot.models.checkpoint import load_model, save_model
from pilot.models.hooks import head_outputs, replaced
from pilot.models.transformer import ModelConfig, PilotTransformer

__all__ = ["ModelConfig", "PilotTransformer", "head_outputs", "load_model", "replaced", "save_model"]
