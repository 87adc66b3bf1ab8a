"""The words that heads earn, and how a verdict is put."""

from __future__ import annotations

from collections.abc import Mapping

WORDS = {"denoising": "sufficient", "noising": "necessary"}


def in_words(verdict: Mapping[str, int]) -> str:
    """ "sufficient and necessary", "necessary", "neither", ..., with "redundant" where the verdict says so."""
    words = [word for word in WORDS.values() if verdict[word]]
    return (" and ".join(words) or "neither") + (", redundant" if verdict.get("redundant") else "")
