"""Pairs of text that a model answers right, and what stands at their positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.experiments.memory import check_memory
from pilot.experiments.pairs import UsablePairs, usable_of
from pilot.inputs.pairs import SPLITS, TokenPair
from pilot.language.pairs import REASONS, TextPair, TokenisedPairs, read_text_pairs, tokenised
from pilot.models.sizes import ModelSizes
from pilot.runtime.files import read_json
from pilot.sweep import SweepEngine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# float32 numbers for each token of the vocabulary: logits of two runs and copies of them, while a pair is measured.
LOGITS_PER_PAIR = 6
COUNTS = ("drawn", "both_right", "usable")


@dataclass(frozen=True)
class AnsweredPairs:
    """Pairs that the model answers right on both sides, with a clear difference.

    text      all of them, in the order of the file
    usable    the same in tokens, by edit and split
    numbers   what is written as pairs.json
    """

    text: list[TextPair]
    usable: UsablePairs
    numbers: Mapping[str, Any]

    @property
    def main_edit(self) -> str:
        """The edit that has most pairs in the split where it has fewer."""
        counts = self.usable.counts
        return max(counts, key=lambda edit: min(counts[edit][split]["usable"] for split in SPLITS))


def answered_pairs(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[TextPair], min_logit_gap: float
) -> AnsweredPairs:
    """The pairs that can be patched and are answered right. Raises PilotError, with the rate, where they are too few.

    The numbers are {"drawn", "left_out": {reason: n}, "select": COUNTS, "confirm": COUNTS, "edits": {edit: {split:
    COUNTS}}, "min_logit_gap", "accuracy": {"clean", "corrupt"}}; the reasons are those of pilot.language.pairs,
    and a pair that is left out for one of them is not drawn in its split.
    """
    sizes = ModelSizes.of(model)
    kept = tokenised(pairs, tokenizer, sizes.context)
    if not kept.tokens:
        reasons = "; ".join(f"{number} because {REASONS[reason]}" for reason, number in kept.left_out.items())
        raise PilotError(f"none of the {len(pairs)} pairs can be patched: {reasons}")
    check_memory(len(kept.tokens), 4 * LOGITS_PER_PAIR * sizes.vocab_size)
    # Two forwards a pair take less time than making the other engines ready.
    experiment = PairExperiment(SweepEngine(model, "reference"), kept.tokens, "denoising")
    accuracy = {
        "clean": float(experiment.answers.donor_right.mean()),
        "corrupt": float(experiment.answers.recipient_right.mean()),
    }
    usable = usable_of(experiment, min_logit_gap)
    numbers = {
        "drawn": len(pairs),
        "left_out": dict(kept.left_out),
        **{
            split: {what: sum(by_split[split][what] for by_split in usable.counts.values()) for what in COUNTS}
            for split in SPLITS
        },
        "edits": usable.counts,
        "min_logit_gap": min_logit_gap,
        "accuracy": accuracy,
    }
    answered = AnsweredPairs(_text_of(usable, kept), usable, numbers)
    _check_enough(answered, accuracy)
    return answered


def rates(answered: AnsweredPairs) -> str:
    """How many pairs there were, how many were left out and why, and how often the model is right: some lines."""
    numbers = answered.numbers
    lines = [f"{numbers['drawn']} pairs"]
    lines += [f"left out: {number}, because {REASONS[reason]}" for reason, number in numbers["left_out"].items()]
    right = numbers["accuracy"]
    lines.append(f"right: {right['clean']:.1%} of the clean prompts, {right['corrupt']:.1%} of the corrupt ones")
    for split in SPLITS:
        drawn, both_right, usable = (numbers[split][what] for what in COUNTS)
        lines.append(
            f"{split}: {drawn} pairs, {both_right} right on both sides, {usable} of these with a logit difference "
            f"gap of {answered.usable.min_logit_gap:g} or more"
        )
    return "\n".join(lines)


def _text_of(usable: UsablePairs, kept: TokenisedPairs) -> list[TextPair]:
    wanted = {id(pair) for group in usable.groups.values() for pair in group}
    return [text for text, tokens in zip(kept.text, kept.tokens, strict=True) if id(tokens) in wanted]


def _check_enough(answered: AnsweredPairs, accuracy: Mapping[str, float]) -> None:
    """Raises PilotError where no edit has enough pairs of both splits."""
    try:
        for split in SPLITS:
            answered.usable.need(answered.main_edit, split)
    except PilotError as error:
        raise PilotError(
            f"{error} (right: {accuracy['clean']:.0%} of the clean prompts, {accuracy['corrupt']:.0%} of the corrupt "
            "ones; an answer begins with its space, and a base model continues text rather than follow instructions)"
        ) from None


def read_answered(pairs: Path, numbers: Path, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> AnsweredPairs:
    """What `answered_pairs` found, from its two files. Raises PilotError if they are not of this model.

    numbers   in the folder of the task
    """
    text, made_by = read_text_pairs(pairs), f"pairs@{numbers.parent.name}"
    kept = tokenised(text, tokenizer, ModelSizes.of(model).context)
    content = read_json(numbers, made_by)
    groups: dict[tuple[str, str], list[TokenPair]] = {}
    for pair in kept.tokens:
        groups.setdefault((pair.edit, pair.split), []).append(pair)
    try:
        counts, min_logit_gap = content["edits"], float(content["min_logit_gap"])
        same = {
            (edit, split): counts[edit][split]["usable"]
            for edit in counts
            for split in SPLITS
            if counts[edit][split]["usable"]
        } == {group: len(members) for group, members in groups.items()}
    except (KeyError, TypeError) as error:
        raise PilotError(f"{numbers}: not the numbers of pairs ({error}); run: dvc repro -f {made_by}") from None
    if not same:
        raise PilotError(f"{pairs} and {numbers} are of different runs; run: dvc repro -f {made_by}")
    return AnsweredPairs(text, UsablePairs(groups, counts, min_logit_gap), content)


def token_labels(
    text: Sequence[TextPair], tokens: Sequence[TokenPair], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, ...]]:
    """What stands at each position of each pair's clean prompt; pairs of one template and length have the same labels.

    Where the clean prompts of these pairs differ the first one's token stands for all, in brackets: " [Mary]".
    """
    forms: dict[tuple[str, str, int], list[int]] = {}
    for i, (pair, its) in enumerate(zip(text, tokens, strict=True)):
        forms.setdefault((pair.edit, pair.template, len(its.clean.ids)), []).append(i)
    labels: list[tuple[str, ...]] = [()] * len(tokens)
    for members in forms.values():
        ids = np.array([tokens[i].clean.ids for i in members])
        same = (ids == ids[0]).all(0)
        found = tuple(
            decoded if is_same else _placeholder(decoded)
            for decoded, is_same in zip(token_strings(ids[0].tolist(), tokenizer), same, strict=True)
        )
        for i in members:
            labels[i] = found
    return labels


def token_strings(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Each token as text, spaces included."""
    return [str(tokenizer.decode([token])) for token in ids]


def _placeholder(token: str) -> str:
    space = token[: len(token) - len(token.lstrip())]
    return f"{space}[{token.lstrip()}]"
