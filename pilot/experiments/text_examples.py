"""Worked examples of a language model: what patching the players does to single pairs, and where they attend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.experiments.text_pairs import AnsweredPairs, token_strings
from pilot.inputs.pairs import DIRECTIONS, TokenPair
from pilot.interventions import HeadPatch, Intervention
from pilot.runtime.schema import Count, Section
from pilot.sweep import SweepEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TextExamplesParams(Section):
    """Section `examples` of a language pipeline."""

    pairs: Count


def text_examples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answered: AnsweredPairs,
    players: Intervention,
    n: int,
) -> list[dict[str, Any]]:
    """n confirm pairs of the main edit, spread evenly, or all of them where they are fewer; what is examples.json:

        {"edit", "clean": [token, ...], "corrupt": [...], "clean_answer", "corrupt_answer",
         "patched": [{"heads": "L23H3+L20H0", "direction", "ld", "recovery", "answer"}, ...],
         "attention": {"L23H3": [[share, ...], ...], ...}}

    players   the most important first; each is patched alone, and the first 2, 3, ... of them together

    ld is counted towards the donor; answer is the token that the patched run gives first. attention is that of the
    clean prompt: row i holds the shares of positions 0 to i.
    """
    pairs = answered.usable.need(answered.main_edit, "confirm")
    chosen = np.linspace(0, len(pairs) - 1, min(n, len(pairs))).round().astype(int).tolist()
    engine = SweepEngine(model, "reference")  # some hundred forwards take less time than making the other engines ready
    sets: list[Intervention] = [(head,) for head in players]
    sets += [players[:size] for size in range(2, len(players) + 1)]
    return [_example(engine, model, tokenizer, pairs[i], players, sets) for i in chosen]


def _example(
    engine: SweepEngine,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pair: TokenPair,
    players: Intervention,
    sets: Sequence[Intervention],
) -> dict[str, Any]:
    patched = []
    for direction in DIRECTIONS:
        experiment = PairExperiment(engine, [pair], direction)
        changes = experiment.changes(sets)[:, 0]
        (recipient,), (donor,) = experiment.recipients, experiment.donors
        ids, donor_ids = (torch.tensor([prompt.ids]) for prompt in (recipient, donor))
        given = engine.predict(ids, donor_ids, sets, torch.tensor([[len(recipient.ids) - 1]]))
        answers = token_strings(given[:, 0, 0].tolist(), tokenizer)
        patched += [
            {
                "heads": "+".join(head.name for head in heads),
                "direction": direction,
                "ld": float(experiment.ld_recipient[0] + change),
                "recovery": float(change / experiment.gap[0]),
                "answer": answer,
            }
            for heads, change, answer in zip(sets, changes, answers, strict=True)
        ]
    return {
        "edit": pair.edit,
        "clean": token_strings(pair.clean.ids, tokenizer),
        "corrupt": token_strings(pair.corrupt.ids, tokenizer),
        "clean_answer": str(tokenizer.decode(list(pair.clean.answer))),
        "corrupt_answer": str(tokenizer.decode(list(pair.corrupt.answer))),
        "patched": patched,
        "attention": _attention(model, torch.tensor([pair.clean.ids]), players),
    }


@torch.no_grad()
def _attention(model: PreTrainedModel, ids: Tensor, heads: Sequence[HeadPatch]) -> dict[str, list[list[float]]]:
    """Of each head the rows of the attention pattern, to four digits, without the zeros of causality."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others keep no patterns
    try:
        patterns = model(ids.to(model.device), output_attentions=True).attentions
    finally:
        model.set_attn_implementation(implementation)
    if patterns is None or any(pattern is None for pattern in patterns):
        raise PilotError(f"{type(model).__name__} does not return its attention patterns")
    return {
        head.name: [
            [round(share, 4) for share in row[: i + 1]]
            for i, row in enumerate(patterns[head.layer][0, head.head].tolist())
        ]
        for head in sorted(heads)
    }
