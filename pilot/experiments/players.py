"""The players: the heads of largest effect alone, whose sets are all patched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pilot.errors import PilotError
from pilot.experiments.single_effects import Experiments, Parts, SingleEffects, exact_effects, verified_effects
from pilot.experiments.statistics import bootstrap_ratio, selection_frequency
from pilot.experiments.subsets import MOST_HEADS
from pilot.interventions import Intervention, check_heads, parse_heads, single_heads
from pilot.runtime.files import read_json
from pilot.runtime.schema import Resamples, Section, Seed
from pilot.runtime.shards import Shards

Stability = dict[str, dict[str, float]]


class PlayersParams(Section):
    """Section `select` of a language pipeline; min_recovery and miss_rate are of the method attribution+verify."""

    method: Literal["exact", "attribution+verify"]
    min_recovery: Annotated[float, Field(gt=0, lt=1)]
    miss_rate: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed
    resamples: Resamples
    players: Annotated[int, Field(ge=1, le=MOST_HEADS)]


def choose_players(
    experiments: Experiments, params: PlayersParams, shards: Shards | None, pairs_per_part: int
) -> dict[str, Any] | None:
    """What is written as selection.json; None in all processes but the main one.

        {"method": "exact" or "attribution+verify", "recovery": {direction: {head: {"value", "low", "high"}}},
         "player": {head: rank}, "stability": {direction: {head: share}}}

    experiments      on the select pairs, by direction
    pairs_per_part   how many of them are computed at a time

    The players are the heads whose recovery alone is largest in magnitude, on average of the directions; rank counts
    from 1, and among equals the first head comes first. A head that works against the answer may be one of them.
    stability is how often a head is among as many of largest magnitude when the pairs are drawn anew. Raises PilotError
    for more players than heads.

    With attribution+verify only heads that recover more than params.min_recovery in a direction are patched on all
    pairs. These alone have a recovery and a stability, and can be players, who may thus be fewer than params.players.
    "search" is added, as SingleEffects has it.
    """
    heads = single_heads(next(iter(experiments.values())).engine.model)
    if params.players > len(heads):
        raise PilotError(f"{params.players} players are too many: the model has {len(heads)} heads")
    effects = _single_effects(experiments, params, Parts(shards, pairs_per_part))
    if effects is None:
        return None
    n_players = min(params.players, len(effects.heads))
    rng = np.random.default_rng(params.seed)
    recovery: dict[str, dict[str, Any]] = {}
    stability: Stability = {}
    magnitude = np.zeros(len(effects.heads))
    for direction, change in effects.change.items():
        estimates = bootstrap_ratio(change, experiments[direction].gap, params.resamples, rng)
        sign = np.sign(estimates.value)[:, None]
        frequency = selection_frequency(sign * change, n_players, params.resamples, rng)
        recovery[direction] = {head.name: asdict(estimates[i]) for i, (head,) in enumerate(effects.heads)}
        stability[direction] = {
            head.name: float(share) for (head,), share in zip(effects.heads, frequency, strict=True)
        }
        magnitude += np.abs(estimates.value)
    order = np.argsort(-magnitude, kind="stable")[:n_players]
    player = {effects.heads[i][0].name: rank for rank, i in enumerate(order.tolist(), start=1)}
    selection = {"method": params.method, "recovery": recovery, "player": player, "stability": stability}
    return selection if effects.search is None else selection | {"search": effects.search}


def _single_effects(experiments: Experiments, params: PlayersParams, parts: Parts) -> SingleEffects | None:
    if params.method == "exact":
        return exact_effects(experiments, parts)
    return verified_effects(experiments, params.min_recovery, params.miss_rate, params.seed, parts)


def ranked(selection: Mapping[str, Any]) -> Intervention:
    """The players of what `choose_players` returns, the most important first."""
    ranks = selection["player"]
    return tuple(parse_heads(name)[0] for name in sorted(ranks, key=lambda name: ranks[name]))


def read_players(path: Path, model: object) -> tuple[Intervention, Stability]:
    """The players by rank, and the stability of every head. Raises PilotError for a file of another kind or model.

    path   in the folder of the task
    """
    made_by = f"select@{path.parent.name}"
    content = read_json(path, made_by)
    try:
        players, stability = ranked(content), content["stability"]
        check_heads(players, model)
        return players, {str(direction): dict(shares) for direction, shares in stability.items()}
    except (KeyError, TypeError, AttributeError, PilotError) as error:
        raise PilotError(f"{path}: not the players of this model ({error}); run: dvc repro -f {made_by}") from None
