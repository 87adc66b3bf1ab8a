"""What was measured of a language model on one task, read back for its page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """What a page is about, in words.

    model        such as "SmolLM2-135M-Instruct"
    task         completes "Which heads does the model use for ...?": "indirect object identification", "pairs.jsonl"
    description  what the clean and the corrupt prompts are, a sentence or two; may be empty
    """

    model: str
    task: str
    description: str = ""
