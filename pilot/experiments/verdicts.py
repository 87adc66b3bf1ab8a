"""Which heads are sufficient and which necessary, against controls.

Targets, which are sets of heads, are patched in both directions. Beside them run their controls: as many heads drawn at
random, the same heads from a wrong donor (pilot.experiments.donors), and two whose result is known beforehand. A
recipient's own head outputs must change nothing; and all heads together must make the donor's run where both sides
read the same token before their answers.

A head's verdict needs a large effect, and more of it than the control has that could explain it away: the rule is that
of pilot.experiments.evidence. There is one test for each head and one for the selected heads together, corrected for
their number by Holm's method.

Shapes: n targets, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, overload

import numpy as np
import torch
from torch import Tensor

from pilot.errors import PilotError
from pilot.experiments.effects import Effects, PairExperiment
from pilot.experiments.evidence import Evidence, check_resamples, wrong_donor_changes
from pilot.experiments.pairs import FEWEST
from pilot.experiments.params import CounterfactualParams
from pilot.experiments.parts import in_parts, measured_in_parts
from pilot.experiments.statistics import (
    Estimates,
    adjusted,
    bootstrap_ratio,
    clustered_rate,
    selection_frequency,
)
from pilot.experiments.words import WORDS
from pilot.inputs.pairs import DIRECTIONS
from pilot.interventions import Intervention, single_heads
from pilot.runtime.shards import Shards

EstimateRow = dict[str, Any]  # {"value": ..., "low": ..., "high": ...}


class TargetRow(TypedDict, total=False):
    """The measures of one target over P pairs, as metrics/counterfactual.json holds them.

    recovery         with its interval
    mean_of_ratios   the mean over the pairs of each one's own recovery
    flip_rate        share of pairs in which the patched run gives the donor's whole answer, with its interval
    exact_match      share of pairs in which it still gives the recipient's
    kl               mean KL divergence, in nats
    wrong_donor      recovery from wrong donors, over the pairs that have one; absent where none has, and of random sets
    p, p_holm, p_bh  of a single head's, or the selected ones', being sufficient (in denoising) or necessary (in
                     noising): as it is, and corrected in two ways
    """

    recovery: EstimateRow
    mean_of_ratios: float
    flip_rate: EstimateRow
    exact_match: float
    kl: float
    wrong_donor: EstimateRow
    p: float
    p_holm: float
    p_bh: float


@overload
def measure_targets(
    experiment: PairExperiment, targets: Mapping[str, Intervention], params: CounterfactualParams
) -> dict[str, TargetRow]: ...
@overload
def measure_targets(
    experiment: PairExperiment,
    targets: Mapping[str, Intervention],
    params: CounterfactualParams,
    shards: Shards | None,
    pairs_per_part: int | None,
) -> dict[str, TargetRow] | None: ...
def measure_targets(
    experiment: PairExperiment,
    targets: Mapping[str, Intervention],
    params: CounterfactualParams,
    shards: Shards | None = None,
    pairs_per_part: int | None = None,
) -> dict[str, TargetRow] | None:
    """One row of measures for each target; with a target "top_k" also "random_k": random sets as large, on average.

    targets          interventions by name: every single head by its own name (`L2H2`), "all_heads", and any other
    shards           with them the processes of the group share the work, and a killed run resumes; all but the main
                     process return None
    pairs_per_part   how many pairs are computed at a time; None: all

    Raises PilotError for fewer than two pairs, for too few resamples to tell at `params.level`, and if a control whose
    result is known beforehand comes out otherwise: then nothing here can be believed.
    """
    if len(experiment) < FEWEST:
        raise PilotError(f"{len(experiment)} pair: an interval needs at least {FEWEST}")
    names = {patch.name for patch in targets["all_heads"]}
    heads = [i for i, name in enumerate(targets) if name in names]
    tested = [i for i, name in enumerate(targets) if name in names or name == "top_k"]
    check_resamples(params.resamples, len(tested), params.level)
    rng = np.random.default_rng(params.seed)
    interventions = list(targets.values())
    random_sets = _random_sets(targets, params.random_sets, rng)
    measured = _measure(experiment, interventions, random_sets, shards, pairs_per_part)
    if measured is None:
        return None
    effects, wrong = measured.effects, measured.wrong_donor
    _check_known(experiment, measured, targets, params.tolerance)

    n = len(targets)
    groups = {name: [i] for i, name in enumerate(targets)}
    if random_sets:
        groups["random_k"] = list(range(n, n + len(random_sets)))
    change = np.stack([effects.change[members].mean(0) for members in groups.values()])
    recovery = bootstrap_ratio(change, experiment.gap, params.resamples, rng)
    rows = {
        name: _row(effects, members, experiment.gap, recovery, i) for i, (name, members) in enumerate(groups.items())
    }

    controlled = ~np.isnan(wrong[0])
    if controlled.any():
        wrong_recovery = bootstrap_ratio(wrong[:, controlled], experiment.gap[controlled], params.resamples, rng)
        for i, name in enumerate(targets):
            rows[name]["wrong_donor"] = asdict(wrong_recovery[i])

    if experiment.direction == "denoising":
        control = wrong[tested]
    else:
        control = np.stack([effects.change[[other for other in heads if other != i]].mean(0) for i in tested])
    evidence = Evidence(effects.change[tested], control, experiment.gap)
    p = evidence.pvalues(params.min_effect, params.resamples, rng).tolist()
    pvalues = dict(zip((list(targets)[i] for i in tested), p, strict=True))
    holm, benjamini_hochberg = (adjusted(pvalues, method) for method in ("holm", "benjamini-hochberg"))
    for name in pvalues:
        rows[name]["p"], rows[name]["p_holm"], rows[name]["p_bh"] = pvalues[name], holm[name], benjamini_hochberg[name]
    return rows


def _random_sets(targets: Mapping[str, Intervention], number: int, rng: np.random.Generator) -> list[Intervention]:
    """Sets of as many heads as "top_k"; none without that target."""
    if "top_k" not in targets:
        return []
    heads, size = targets["all_heads"], len(targets["top_k"])
    return [tuple(heads[i] for i in sorted(rng.choice(len(heads), size, replace=False))) for _ in range(number)]


@dataclass(frozen=True, eq=False)
class _Measured:
    """What n targets, and the random sets after them, do to P pairs.

    effects       of all of them
    self_donor    (n, P) LD changes with the recipient's own head outputs, NaN for pairs where that was not tried
    wrong_donor   (n, P) LD changes with a wrong donor's, NaN for pairs that have none
    """

    effects: Effects
    self_donor: np.ndarray
    wrong_donor: np.ndarray


def _measure(
    experiment: PairExperiment,
    interventions: Sequence[Intervention],
    random_sets: Sequence[Intervention],
    shards: Shards | None,
    pairs_per_part: int | None,
) -> _Measured | None:
    """None in all processes but the main one."""

    def measure(pairs: list[int]) -> dict[str, Tensor]:
        part = experiment.take(np.array(pairs))
        # This control tests the engine, whatever the pairs, and shares no positions: the first part is enough.
        if pairs == parts[0]:
            self_donor = part.changes(interventions, part.self_donor)
        else:
            self_donor = np.full((len(interventions), len(pairs)), np.nan, dtype=np.float32)
        arrays = {
            **vars(part.effects([*interventions, *random_sets])),
            "self_donor": self_donor,
            "wrong_donor": wrong_donor_changes(experiment, interventions, pairs),
        }
        return {name: torch.from_numpy(values) for name, values in arrays.items()}

    parts = in_parts(range(len(experiment)), pairs_per_part or len(experiment))
    parameters = {"targets": [*interventions, *random_sets]}
    measured = measured_in_parts(experiment, parts, measure, shards, parameters)
    if measured is None:
        return None
    controls = measured.pop("self_donor"), measured.pop("wrong_donor")
    return _Measured(Effects(**measured), *controls)


def _check_known(
    experiment: PairExperiment, measured: _Measured, targets: Mapping[str, Intervention], tolerance: float
) -> None:
    all_heads = list(targets).index("all_heads")
    same_token = np.array([pair.clean.ids[-1] == pair.corrupt.ids[-1] for pair in experiment.pairs])
    moved = np.nanmax(np.abs(measured.self_donor))
    missed = np.abs(measured.effects.change[all_heads] - experiment.gap).max(where=same_token, initial=0)
    if max(moved, missed) > tolerance:
        raise PilotError(
            f"the known controls fail: the recipient's own head outputs move its logit difference by {moved:.3g}, and "
            f"all heads together miss the donor's by {missed:.3g} (rounding stays below {tolerance:g}); no result of "
            "this run can be trusted"
        )


def _row(effects: Effects, members: Sequence[int], gap: np.ndarray, recovery: Estimates, number: int) -> TargetRow:
    """The measures of one target, or on average of several."""
    adopted = effects.adopted[members]
    pair = np.tile(np.arange(adopted.shape[1]), len(members))
    return {
        "recovery": asdict(recovery[number]),
        "mean_of_ratios": float((effects.change[members] / gap).mean()),
        "flip_rate": asdict(clustered_rate(adopted.ravel(), pair)),
        "exact_match": float(effects.kept[members].mean()),
        "kl": float(effects.kl[members].mean()),
    }


def verdicts(
    rows: Mapping[str, Mapping[str, TargetRow]], heads: Sequence[str], params: CounterfactualParams
) -> dict[str, dict[str, int]]:
    """For each head whether it is sufficient (by the rows of "denoising") and necessary ("noising"): 0 or 1 each.

    It is if its test, corrected by Holm's method, is significant at `params.level`.
    """
    return {
        head: {WORDS[direction]: int(rows[direction][head]["p_holm"] < params.level) for direction in DIRECTIONS}
        for head in heads
    }


def stability(experiment: PairExperiment, k: int, resamples: int, seed: int) -> dict[str, float]:
    """How often each head is among the k of largest effect when the pairs are drawn anew, by name."""
    heads = single_heads(experiment.engine.model)
    frequency = selection_frequency(experiment.changes(heads), k, resamples, np.random.default_rng(seed))
    return {head.name: float(share) for (head,), share in zip(heads, frequency, strict=True)}
