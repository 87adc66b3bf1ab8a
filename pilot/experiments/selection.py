"""Which heads are selected, by what their ablation costs, and what the pipeline patches because of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pilot.errors import PilotError
from pilot.interventions import Intervention, at_positions, parse_heads, parse_positions, single_heads
from pilot.runtime.files import read_json

if TYPE_CHECKING:  # ranking heads needs no model
    from pilot.models.transformer import ModelConfig


class RankedHead(TypedDict):
    """One head in metrics/selection.json, most important first: rank counts from 1, flags are 0 or 1."""

    rank: int
    impact: float
    confirm_impact: float
    selected: int
    meets_threshold: int


def rank_heads(
    impact: Mapping[str, float], confirmed: Mapping[str, float], top_k: int, min_impact: float
) -> dict[str, RankedHead]:
    """The heads by impact, the first `top_k` selected; among equals the first layer, then the first head.

    impact      what each head's ablation costs on the half of the data that heads are chosen on, by name
    confirmed   the same on the other half, which the choice does not see
    """
    ranked = sorted(impact, key=lambda name: (-impact[name], parse_heads(name)))
    return {
        name: {
            "rank": rank,
            "impact": impact[name],
            "confirm_impact": confirmed[name],
            "selected": int(rank <= top_k),
            "meets_threshold": int(impact[name] >= min_impact),
        }
        for rank, name in enumerate(ranked, start=1)
    }


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
