"""Worked examples: single pairs to look at, what patching does to their answers and where the heads attend.

Answers are decoded greedily. The patched run and its donor go on from the same tokens, those that the patched run has
given so far; an answer is therefore the donor's whole answer exactly where the teacher-forced runs of
pilot.experiments.pairs say so.

Shapes: T positions of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pilot.arithmetic.examples import Example, buckets_by_length
from pilot.arithmetic.pairs import CounterfactualPair
from pilot.arithmetic.scoring import score_model
from pilot.arithmetic.vocabulary import END, decode, encode
from pilot.experiments.pairs import ROLES
from pilot.interventions import Intervention, single_heads
from pilot.models.hooks import attention_patterns, head_outputs, replaced
from pilot.models.transformer import PilotTransformer


def choose_pairs(model: PilotTransformer, pairs: Sequence[CounterfactualPair], n: int) -> list[CounterfactualPair]:
    """n pairs that the model answers right on both sides, spread evenly over the list; of all where those are fewer."""
    clean, corrupt = (
        score_model(model, buckets_by_length([getattr(pair, side) for pair in pairs])).exact_match
        for side in ("clean", "corrupt")
    )
    candidates = (clean & corrupt).nonzero().flatten().tolist()
    if len(candidates) < n:
        candidates = range(len(pairs))
    spread = np.linspace(0, len(candidates) - 1, min(n, len(candidates))).round().astype(int)
    return [pairs[candidates[i]] for i in spread]


def worked_example(model: PilotTransformer, pair: CounterfactualPair, selected: Intervention) -> dict:
    """What runs/examples.json holds of a pair:

        {"clean": SIDE, "corrupt": SIDE,
         "patched": {"denoising": {"L0H0": ANSWER, ..., "top_k": ANSWER}, "noising": {"L0H0": ANSWER, ...}}}

    A SIDE is {"expression", "result", "tokens", "answer", "attention"}: what the model reads ("" is the opening
    marker), its unpatched ANSWER as text, and by head the attention to each position up to the reader's own, in
    thousandths. Every single head is patched, and `selected` together under the name "top_k".
    """
    device = model.unembed.weight.device
    examples = {"clean": pair.clean, "corrupt": pair.corrupt}
    prompts = {
        side: torch.tensor([encode(f"{example.expression}=")], device=device) for side, example in examples.items()
    }
    interventions = {patch.name: (patch,) for (patch,) in single_heads(model.config)} | {"top_k": selected}
    return {
        **{side: _unpatched(model, example, prompts[side]) for side, example in examples.items()},
        "patched": {
            direction: {
                name: greedy_answer(model, prompts[recipient], prompts[donor], intervention)
                for name, intervention in interventions.items()
            }
            for direction, (recipient, donor) in ROLES.items()
        },
    }


@torch.no_grad()
def greedy_answer(
    model: PilotTransformer, recipient: torch.Tensor, donor: torch.Tensor, intervention: Intervention
) -> str:
    """What the model answers to a recipient's prompt (1, T), patched with head outputs of a donor's prompt (1, T).

    An answer that the model's context has no room for is cut.
    """
    for _ in range(recipient.shape[1], model.config.context + 1):
        with replaced(model, intervention, head_outputs(model, donor)):
            token = model(recipient)[:, -1:].argmax(-1)
        if token.item() == END:
            break
        recipient, donor = (torch.cat([run, token], 1) for run in (recipient, donor))
    return decode(recipient[0]).partition("=")[2]


def _unpatched(model: PilotTransformer, example: Example, prompt: torch.Tensor) -> dict:
    """The SIDE of worked_example."""
    patterns = attention_patterns(model, prompt)
    return {
        "expression": example.expression,
        "result": example.result,
        "tokens": [decode([token]) for token in prompt[0]],
        "answer": greedy_answer(model, prompt, prompt, ()),
        "attention": {
            patch.name: _thousandths(patterns[patch.layer][0, patch.head]) for (patch,) in single_heads(model.config)
        },
    }


def _thousandths(pattern: torch.Tensor) -> list[list[int]]:
    """A pattern (T, T) without the zeros of causality: row i has i + 1 entries."""
    return [row[: i + 1] for i, row in enumerate((1000 * pattern).round().int().tolist())]
