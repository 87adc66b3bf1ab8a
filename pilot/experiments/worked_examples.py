"""Worked examples: single pairs to look at, what patching does to their answers and where the heads attend.

Answers are decoded greedily. The patched run and its donor go on from the same tokens, those that the patched run has
given so far; an answer is therefore the donor's whole answer exactly where the teacher-forced runs of
pilot.experiments.effects say so.

Shapes: T positions of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pilot.inputs.pairs import ROLES, TokenPair
from pilot.inputs.prompts import Prompt
from pilot.interventions import Intervention, single_heads
from pilot.models import hooks
from pilot.models.transformer import PilotTransformer

Decode = Callable[[Sequence[int]], str]


def choose_evenly(right: np.ndarray, n: int) -> list[int]:
    """n numbers of those that are `right`, (P,) bool, spread evenly over them; of all where those are fewer."""
    candidates = np.flatnonzero(right)
    if len(candidates) < n:
        candidates = np.arange(len(right))
    spread = np.linspace(0, len(candidates) - 1, min(n, len(candidates))).round().astype(int)
    return [int(i) for i in candidates[spread]]


def worked_example(model: PilotTransformer, pair: TokenPair, selected: Intervention, decode: Decode) -> dict[str, Any]:
    """What there is to see of a pair:

        {"clean": SIDE, "corrupt": SIDE,
         "patched": {"denoising": {"L0H0": ANSWER, ..., "top_k": ANSWER}, "noising": {"L0H0": ANSWER, ...}}}

    A SIDE is {"tokens", "answer", "attention"}: the prompt's tokens as `decode` writes them, its unpatched ANSWER as
    text, and by head the attention to each position up to the reader's own, in thousandths. Every single head is
    patched, and `selected` together under the name "top_k". The last token of a right answer is what ends an answer.
    """
    device = next(model.parameters()).device
    sides: dict[str, Prompt] = {"clean": pair.clean, "corrupt": pair.corrupt}
    prompts = {side: torch.tensor([prompt.ids], device=device) for side, prompt in sides.items()}
    interventions = {patch.name: (patch,) for (patch,) in single_heads(model.config)} | {"top_k": selected}

    def answer(recipient: str, donor: str, intervention: Intervention) -> str:
        end = sides[recipient].answer[-1]
        return decode(greedy_answer(model, prompts[recipient], prompts[donor], intervention, end))

    return {
        **{
            side: {
                "tokens": [decode([token]) for token in prompt.ids],
                "answer": answer(side, side, ()),
                "attention": _attention(model, prompts[side]),
            }
            for side, prompt in sides.items()
        },
        "patched": {
            direction: {name: answer(recipient, donor, intervention) for name, intervention in interventions.items()}
            for direction, (recipient, donor) in ROLES.items()
        },
    }


@torch.no_grad()
def greedy_answer(
    model: PilotTransformer, recipient: Tensor, donor: Tensor, intervention: Intervention, end: int
) -> list[int]:
    """What the model answers to a recipient's prompt (1, T), patched with head outputs of a donor's prompt (1, T).

    end   the token that ends an answer, and is no part of what is returned

    An answer that the model's context has no room for is cut.
    """
    answer: list[int] = []
    for _ in range(recipient.shape[1], model.config.context + 1):
        with hooks.replaced(model, intervention, hooks.head_outputs(model, donor)):
            token = model(recipient)[:, -1:].argmax(-1)
        if token.item() == end:
            break
        answer.append(int(token))
        recipient, donor = (torch.cat([run, token], 1) for run in (recipient, donor))
    return answer


def _attention(model: PilotTransformer, prompt: Tensor) -> dict[str, list[list[int]]]:
    """Of each head, in thousandths and without the zeros of causality: row i has i + 1 entries."""
    patterns = hooks.attention_patterns(model, prompt)
    thousandths = {
        patch.name: (1000 * patterns[patch.layer][0, patch.head]).round().int().tolist()
        for (patch,) in single_heads(model.config)
    }
    return {name: [row[: i + 1] for i, row in enumerate(pattern)] for name, pattern in thousandths.items()}
