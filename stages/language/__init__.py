"""The stages of language/dvc.yaml, for one task each: `python -m stages.language.select`."""
