"""The pipeline's experiment on counterfactual pairs: which heads are sufficient, which are necessary, against controls.

Targets are patched in both directions. Beside them run their controls: as many of the lowest-ranked heads, random sets
of the same size, the same heads from a wrong donor, and two whose result is known beforehand. A recipient's own head
outputs must change nothing, and all heads together must make the donor's run, for where the answers part both sides
read one token.

A head's verdict needs a large effect and a test against the control that could explain it away. Damage alone moves the
logit difference towards zero, so a sufficient head must do more than the same head from a wrong donor; every head does
something in noising, so a necessary one must do more than the other heads do.

Shapes: n targets, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from pilot.arithmetic.edits import EDITS
from pilot.arithmetic.examples import buckets_by_length
from pilot.arithmetic.pairs import SPLITS, CounterfactualPair
from pilot.arithmetic.scoring import score_model
from pilot.errors import PilotError
from pilot.experiments.effects import Effects, measure_effects, self_donor, wrong_donor
from pilot.experiments.pairs import DIRECTIONS
from pilot.experiments.params import CounterfactualParams
from pilot.experiments.statistics import Estimates, adjusted, bootstrap_ratio, clustered_rate, sign_test
from pilot.interventions import Intervention
from pilot.models.transformer import PilotTransformer

TOLERANCE = 0.01  # between logit differences that are equal but for rounding, which is some 1e-4
LEVEL = 0.05  # of the corrected tests

Groups = dict[tuple[str, str], list[CounterfactualPair]]


def usable_pairs(
    model: PilotTransformer, pairs: Sequence[CounterfactualPair], min_logit_gap: float, impl: str
) -> tuple[Groups, dict]:
    """Pairs that the model answers right on both sides, with an LD gap wide enough, by edit and split; and counts."""
    sides = [[getattr(pair, side) for pair in pairs] for side in ("clean", "corrupt")]
    right = np.logical_and(*(score_model(model, buckets_by_length(side)).exact_match.numpy() for side in sides))
    wide = measure_effects(model, pairs, "denoising", [()], impl=impl).gap >= min_logit_gap
    groups, counts = {}, {}
    for edit in EDITS:
        for split in SPLITS:
            member = np.array([(pair.edit, pair.split) == (edit, split) for pair in pairs], dtype=bool)
            groups[edit, split] = [pairs[i] for i in np.flatnonzero(member & right & wide)]
            counts.setdefault(edit, {})[split] = {
                "drawn": int(member.sum()),
                "both_right": int((member & right).sum()),
                "usable": len(groups[edit, split]),
            }
    return groups, counts


def patch_pairs(
    model: PilotTransformer,
    pairs: Sequence[CounterfactualPair],
    direction: str,
    targets: Mapping[str, Intervention],
    params: CounterfactualParams,
    impl: str,
) -> dict[str, dict]:
    """One row of measures for each target, and one for random sets as large as `top_k`, on average.

    Raises PilotError if a control whose result is known beforehand comes out otherwise: then nothing here can be
    believed.
    """
    rng = np.random.default_rng(params.seed)
    names, interventions = list(targets), list(targets.values())
    n_heads, size = len(targets["all_heads"]), len(targets["top_k"])
    random_sets = [
        tuple(targets["all_heads"][i] for i in sorted(rng.choice(n_heads, size, replace=False)))
        for _ in range(params.random_sets)
    ]
    effects = measure_effects(model, pairs, direction, [*interventions, *random_sets], impl=impl)
    wrong = measure_effects(model, pairs, direction, interventions, wrong_donor, impl)
    unchanged = measure_effects(model, pairs, direction, interventions, self_donor, impl)
    _check_known(effects, unchanged, names.index("all_heads"))

    everything = np.concatenate([effects.change[: len(names)], effects.change[len(names) :].mean(0, keepdims=True)])
    recovery = bootstrap_ratio(everything, effects.gap, params.resamples, rng)
    wrong_recovery = bootstrap_ratio(wrong.change, effects.gap, params.resamples, rng)
    rows = {name: _row(effects, [i], recovery, i) for i, name in enumerate(names)}
    for i, name in enumerate(names):
        rows[name]["wrong_donor"] = asdict(wrong_recovery[i])
    rows["random_k"] = _row(effects, range(len(names), len(effects.ld)), recovery, len(names))

    heads = [name for name in names if name in {patch.name for patch in targets["all_heads"]}]
    tested = [*heads, "top_k"]
    pvalues = {name: _pvalue(effects.change, wrong.change, names.index(name), len(heads), direction) for name in tested}
    corrections = {"p_holm": "holm", "p_bh": "benjamini-hochberg"}
    for name in tested:
        rows[name]["p"] = pvalues[name]
    for key, method in corrections.items():
        for name, value in adjusted(pvalues, method).items():
            rows[name][key] = value
    return rows


def _check_known(effects: Effects, unchanged: Effects, all_heads: int) -> None:
    moved = np.abs(unchanged.change).max()
    missed = np.abs(effects.ld[all_heads] - effects.ld_donor).max()
    if max(moved, missed) > TOLERANCE:
        raise PilotError(
            f"the known controls fail: the recipient's own head outputs move its logit difference by {moved:.3g}, and "
            f"all heads together miss the donor's by {missed:.3g} (rounding stays below {TOLERANCE}); no result "
            "of this run can be trusted"
        )


def _row(effects: Effects, members: Sequence[int], recovery: Estimates, number: int) -> dict:
    """The measures of one target, or on average of several. Pairs with answers right on both sides count one by one."""
    members = list(members)
    adopted = effects.adopted[members]
    pair = np.tile(np.arange(adopted.shape[1]), len(members))
    return {
        "recovery": asdict(recovery[number]),
        "mean_of_ratios": float((effects.change[members] / effects.gap).mean()),
        "flip_rate": asdict(clustered_rate(adopted.ravel(), pair)),
        "exact_match": float(effects.kept[members].mean()),
        "kl": float(effects.kl[members].mean()),
    }


def _pvalue(change: np.ndarray, wrong: np.ndarray, target: int, n_heads: int, direction: str) -> float:
    """Of the paired test of a target against its direction's control: see the top of this module."""
    if direction == "denoising":
        return sign_test(change[target], wrong[target], alternative="greater")
    others = [i for i in range(n_heads) if i != target]
    return sign_test(change[target], change[others].mean(0), alternative="greater")


def verdicts(rows: Mapping[str, Mapping[str, dict]], heads: Sequence[str], min_effect: float) -> dict[str, dict]:
    """For each head whether it is sufficient (by the rows of "denoising") and necessary ("noising"): 0 or 1 each.

    It is if its recovery's interval lies above `min_effect` and its corrected test (Holm) is significant at LEVEL.
    """

    def holds(row: dict) -> int:
        return int(row["recovery"]["low"] > min_effect and row["p_holm"] < LEVEL)

    named = dict(zip(DIRECTIONS, ("sufficient", "necessary"), strict=True))
    return {head: {word: holds(rows[direction][head]) for direction, word in named.items()} for head in heads}


def in_words(verdict: Mapping[str, int]) -> str:
    """ "sufficient and necessary", "necessary", "neither", ..., with "redundant" where the verdict says so."""
    words = [word for word in ("sufficient", "necessary") if verdict[word]]
    return (" and ".join(words) or "neither") + (", redundant" if verdict.get("redundant") else "")
