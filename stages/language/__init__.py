"""The stages of language/dvc.yaml, for one task each, and the command that runs them all: patch-heads."""
