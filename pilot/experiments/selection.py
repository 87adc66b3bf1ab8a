"""The select stage's ranking of heads, and what the pipeline patches because of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pilot.errors import PilotError
from pilot.interventions import Intervention, at_positions, parse_heads, parse_positions, single_heads
from pilot.models.transformer import ModelConfig
from pilot.runtime.files import read_json


def read_selection(path: Path | str, config: ModelConfig) -> tuple[Intervention, int]:
    """All heads, the most important first, and how many of them are selected.

    Raises PilotError if the file is not the select stage's, or not of a model of these heads.
    """
    try:
        heads = read_json(path, made_by="select")["heads"]
        ranked = sorted(heads, key=lambda name: heads[name]["rank"])
        k = sum(head["selected"] for head in heads.values())
    except (KeyError, TypeError, AttributeError) as error:
        raise PilotError(f"{path}: not the select stage's results ({error}); run: dvc repro -f select") from None
    chosen = tuple(parse_heads(name)[0] for name in ranked)
    if sorted((patch,) for patch in chosen) != single_heads(config):
        raise PilotError(f"{path}: ranks other heads than the model has; select again: dvc repro -f select")
    return chosen, k


def pipeline_targets(ranked: Intervention, k: int, ranges: Sequence[str]) -> dict[str, Intervention]:
    """What is patched, by name: every head alone; the first k together, everywhere and range by range; as many of the
    lowest-ranked others, where there are so many; all heads.
    """
    heads = tuple(sorted(ranked))
    top, bottom = ranked[:k], ranked[k:][-k:]
    targets = {patch.name: (patch,) for patch in heads} | {"top_k": top}
    if len(bottom) == len(top):
        targets["bottom_k"] = bottom
    targets |= {f"top_k@{text}": at_positions(top, *parse_positions(text)) for text in ranges}
    return targets | {"all_heads": heads}
