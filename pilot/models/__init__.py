"""Transformers: the small one that is trained here, its checkpoints, and hooks that read and replace head outputs."""
