"""The experiment on a language model, step by step: what the pipeline and the command `patch-heads` share.

answered_pairs ─► select_players ─► counterfactual ─► text_examples
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pilot.experiments.counterfactual import Counterfactual, Results, Stability
from pilot.experiments.effects import PairExperiment
from pilot.experiments.memory import check_memory
from pilot.experiments.params import CounterfactualParams
from pilot.experiments.parts import sweep_shards
from pilot.experiments.players import PlayersParams, choose_players
from pilot.experiments.subsets import best_sets_and_sums
from pilot.experiments.text_pairs import LOGITS_PER_PAIR, AnsweredPairs, token_labels
from pilot.inputs.pairs import DIRECTIONS
from pilot.interventions import Intervention, single_heads
from pilot.models.sizes import ModelSizes
from pilot.runtime import distributed
from pilot.runtime.shards import Shards
from pilot.sweep import SweepEngine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAIRS_PER_PART = 4  # what a kill can cost: half a minute for 270 heads of a model of 135 million parameters

# What the sweeps run.
CODE = (
    "pilot.arithmetic",
    "pilot.experiments",
    "pilot.inputs",
    "pilot.interventions",
    "pilot.language",
    "pilot.models",
    "pilot.ops",
    "pilot.runtime",
    "pilot.sweep",
)


def model_shards(folder: Path, engine: SweepEngine, device: torch.device, weights: Path) -> Shards:
    """The state that killed sweeps of a model resume from.

    folder    the processes of one group share it, and no other run
    weights   the file or folder that the model was loaded from
    """
    files = sorted(weights.glob("*")) if weights.is_dir() else [weights]
    return sweep_shards(folder, engine, device, [path for path in files if path.is_file()], CODE)


def select_players(
    engine: SweepEngine, answered: AnsweredPairs, params: PlayersParams, shards: Shards
) -> dict[str, Any] | None:
    """`choose_players` on the main edit's select pairs; None in all processes but the main one."""
    pairs = answered.usable.need(answered.main_edit, "select")
    experiments = {direction: PairExperiment(engine, pairs, direction) for direction in DIRECTIONS}
    return choose_players(experiments, params, shards, PAIRS_PER_PART)


def counterfactual(
    engine: SweepEngine,
    tokenizer: PreTrainedTokenizerBase,
    answered: AnsweredPairs,
    players: Intervention,
    stability: Stability,
    params: CounterfactualParams,
    shards: Shards,
) -> Results | None:
    """Every head alone, the players together and in every set, on confirm pairs; None in all processes but the main.

    players     the most important first; they are the target "top_k"
    stability   of every head's being among them, by direction

    Sets, and heads by position, take params.exhaustive_pairs pairs.
    """
    vocab_size = ModelSizes.of(engine.model).vocab_size
    check_memory(sum(map(len, answered.usable.groups.values())), 4 * LOGITS_PER_PAIR * vocab_size)
    heads = tuple(head for (head,) in single_heads(engine.model))
    main = (answered.main_edit, "confirm")
    text = [pair for pair in answered.text if (pair.edit, pair.split) == main]
    experiment = Counterfactual(
        engine=engine,
        usable=answered.usable,
        main_edit=answered.main_edit,
        targets={head.name: (head,) for head in heads} | {"top_k": players, "all_heads": heads},
        players=players,
        params=params,
        compare_sets=lambda select, confirm: best_sets_and_sums(select, confirm, params.resamples, params.seed),
        labels=token_labels(text, answered.usable.need(*main), tokenizer),
        position_pairs=params.exhaustive_pairs,
        shards=shards,
        pairs_per_part=PAIRS_PER_PART,
    )
    return experiment.run(lambda: stability, distributed.is_main())
