"""The pairs of a task by its name: made from templates, or read from a file of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pilot.errors import PilotError
from pilot.language.pairs import TextPair, read_text_pairs
from pilot.language.tasks import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def task_pairs(
    name: str, folder: Path, per_split: int, seed: int, tokenizer: PreTrainedTokenizerBase
) -> list[TextPair]:
    """Of one of TASKS so many pairs of each split; of another task all pairs of the file NAME.jsonl in `folder`.

    Raises PilotError for a task that is neither, and as Task.pairs and read_text_pairs.
    """
    if name in TASKS:
        return TASKS[name].pairs(per_split, seed, tokenizer)
    path = folder / f"{name}.jsonl"
    if not path.exists():
        raise PilotError(f"task {name}: neither one of {', '.join(TASKS)} nor a file of pairs, {path}")
    return read_text_pairs(path)
