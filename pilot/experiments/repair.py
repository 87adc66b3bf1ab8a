"""The guide's experiment: head outputs of a correctly answered expression put into a wrongly answered one.

The recipient is fixed if, patched, it gives its own true answer. Two controls: other heads, and donors that are
themselves answered wrongly. Answers are read under teacher forcing (pilot.arithmetic.scoring).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from tqdm import tqdm

from pilot.arithmetic.examples import Example, buckets_by_length
from pilot.arithmetic.scoring import answer_positions, answer_text, score
from pilot.arithmetic.vocabulary import END
from pilot.errors import PilotError
from pilot.experiments.statistics import clustered_rate
from pilot.interventions import HeadPatch, Intervention
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.sweep import SweepEngine


@dataclass(frozen=True)
class Setting:
    """What the experiments of one run share. `correct`: which of the N examples the model answers right, (N,) bool."""

    model: PilotTransformer
    checkpoint: str
    examples: Sequence[Example]
    correct: np.ndarray
    metric: str
    impl: str = "auto"


@dataclass(frozen=True)
class Pair:
    """Two examples by their numbers: `recipient` is patched with head outputs of `donor`."""

    recipient: int
    donor: int


@dataclass(frozen=True)
class Outcomes:
    """What every intervention did to every pair: (n_interventions, n_pairs) each.

    fixed       bool, the patched recipient gives its own true answer, by the setting's metric
    adopted     bool, it gives the donor's true answer instead, every token of it; False for a donor that was cut
    prediction  the patched answers as text
    """

    fixed: np.ndarray
    adopted: np.ndarray
    prediction: np.ndarray


def find_pairs(
    examples: Sequence[Example],
    recipients: Sequence[int],
    donors: Sequence[int],
    per_recipient: int,
    rng: np.random.Generator | None = None,
) -> list[Pair]:
    """Each recipient with up to `per_recipient` donors of its sequence length, or else of the next larger one.

    A longer donor is cut to the recipient's length when it runs. Donors are drawn by `rng` without repetition, or
    come in their order without one; no example is its own donor. A recipient without a donor has no pair.
    """
    by_length = defaultdict(list)
    for donor in donors:
        by_length[examples[donor].seq_len].append(donor)
    pairs = []
    for recipient in recipients:
        for length in sorted(length for length in by_length if length >= examples[recipient].seq_len):
            candidates = [donor for donor in by_length[length] if donor != recipient]
            if candidates:
                chosen = candidates if rng is None else rng.permutation(candidates)
                pairs += [Pair(int(recipient), int(donor)) for donor in chosen[:per_recipient]]
                break
    return pairs


def run_pairs(setting: Setting, pairs: Sequence[Pair], interventions: Sequence[Intervention]) -> Outcomes:
    """Run every intervention on every pair. Raises PilotError for a patch outside a pair's sequence."""
    examples, shape = setting.examples, (len(interventions), len(pairs))
    outcomes = Outcomes(np.zeros(shape, bool), np.zeros(shape, bool), np.full(shape, "", dtype=object))
    engine = SweepEngine(setting.model, setting.impl)
    for bucket in buckets_by_length([examples[pair.recipient] for pair in pairs]):
        seq = bucket.inputs.shape[1]
        donor_ids, donor_targets, donor_answer = _donor_rows([examples[pairs[i].donor] for i in bucket.index], seq)
        donor_is_whole = donor_targets[:, -1] == END  # of one that was cut there is no answer to compare with
        read = answer_positions(bucket.answer | donor_answer)
        own = [tensor.gather(1, read) for tensor in (bucket.targets, bucket.answer)]
        donors = [tensor.gather(1, read) for tensor in (donor_targets, donor_answer)]
        predicted = engine.predict(bucket.inputs, donor_ids, interventions, read)
        for i, rows in enumerate(predicted):
            outcomes.fixed[i, bucket.index] = getattr(score(rows, *own), setting.metric)
            outcomes.adopted[i, bucket.index] = score(rows, *donors).exact_match & donor_is_whole
            outcomes.prediction[i, bucket.index] = [answer_text(*row) for row in zip(rows, own[1], strict=True)]
    return outcomes


def _donor_rows(donors: list[Example], seq: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, targets and answer mask of donors of at least `seq` positions, cut to that: (N, seq) each.

    Attention is causal, so a run cut short has the head outputs of the whole run, cut.
    """
    rows = [torch.empty(len(donors), seq, dtype=dtype) for dtype in (torch.int64, torch.int64, torch.bool)]
    for bucket in buckets_by_length(donors):
        for row, whole in zip(rows, (bucket.inputs, bucket.targets, bucket.answer), strict=True):
            row[bucket.index] = whole[:, :seq]
    return tuple(rows)


def repair_rates(
    setting: Setting,
    targets: Mapping[str, Intervention],
    lines: slice,
    donors_per_recipient: int,
    seed: int,
    progress: bool = False,
) -> dict:
    """How often each target's patch repairs a wrong answer, over every usable pair of the chosen lines.

    Recipients are the wrong answers; donors are right ones, and for the control other wrong ones. A rate's interval
    treats the pairs of one recipient as related (`clustered_rate`). Pairs too short for a target's positions are left
    out of its rate, and a target or control that has no pair is left out of the result: all of them where no wrong
    answer has a right one to go with. Raises PilotError if no lines are chosen.
    """
    numbers = np.arange(len(setting.examples))[lines]
    if not len(numbers):
        raise PilotError("this half of the test lines has none: pass a larger --test-path, or --half all")
    right, wrong = numbers[setting.correct[numbers]], numbers[~setting.correct[numbers]]
    pairs = {
        kind: find_pairs(setting.examples, wrong, donors, donors_per_recipient, np.random.default_rng(seed))
        for kind, donors in {"right_to_wrong": right, "wrong_to_wrong": wrong}.items()
    }
    repair: dict[str, dict] = {}
    for name, target in tqdm(targets.items(), unit="target", disable=None if progress else True):
        needed = max(patch.start + 1 if patch.stop is None else patch.stop for patch in target)
        for kind in pairs:
            usable = [pair for pair in pairs[kind] if setting.examples[pair.recipient].seq_len - 1 >= needed]
            if usable:
                repair.setdefault(name, {})[kind] = _rates(setting, usable, target)
    return {
        "fused": int(SweepEngine(setting.model, setting.impl).impl == "fused"),
        "examples": len(numbers),
        "accuracy": len(right) / len(numbers),
        "wrong_answers": len(wrong),
        "pairs": {kind: len(pairs[kind]) for kind in pairs},
        "repair": {name: rates for name, rates in repair.items() if "right_to_wrong" in rates},
    }


def _rates(setting: Setting, pairs: Sequence[Pair], target: Intervention) -> dict:
    outcomes = run_pairs(setting, pairs, [target])
    recipient = np.array([pair.recipient for pair in pairs])
    return {
        "fixed": asdict(clustered_rate(outcomes.fixed[0], recipient)),
        "adopted": asdict(clustered_rate(outcomes.adopted[0], recipient)),
        "pairs": len(pairs),
    }


def control_heads(target: Intervention, config: ModelConfig, first: int | None = None) -> Intervention | None:
    """As many other heads in the same layers at the same positions: for each head the next free one of its layer.

    first   the head to take instead; it must not be the target's own. None is returned if a layer has too few heads.
    """
    taken = {(patch.layer, patch.head) for patch in target}
    controls: Intervention = ()
    for patch in target:
        candidates = (
            [first] if first is not None else [(patch.head + i) % config.n_heads for i in range(1, config.n_heads)]
        )
        free = [head for head in candidates if (patch.layer, head) not in taken]
        if not free:
            return None
        taken.add((patch.layer, free[0]))
        controls += (HeadPatch(patch.layer, free[0], patch.start, patch.stop),)
    return controls
