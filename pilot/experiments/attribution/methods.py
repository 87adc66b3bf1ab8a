"""Approximations of activation patching: what each head, patched alone, would change the logit difference (LD) by.

    atp_recipient     attribution patching: the gradient at the recipient's z times the donor's z less the recipient's
                      (Nanda 2023, "Attribution patching"; Syed et al. 2023, arXiv:2310.10348)
    atp_donor         the same with the gradient at the donor's z
    atp_mean          the mean of the two
    atp_star          AtP* of outputs: GradDrop (Kramar et al. 2024, arXiv:2403.00745). Its other part, the QK fix, is
                      of queries and keys; a head's output is known on both sides and needs none
    relp              relevance patching: the gradient by the rules of pilot.experiments.attribution.rules
    ig_inputs_M       integrated gradients on M inputs between the two (EAP-IG: Hanna et al. 2024, arXiv:2403.17806)
    ig_activations_M  the same between the two sides' z, one layer at a time
    zero_ablation     zeros in place of the donor's z: no approximation of patching, but often used for one
    mean_ablation     likewise each head's mean output, by position, over the recipients

In a model that is linear from z to the logits the gradient methods are exact. GradDrop alone is so only where z reaches
the logits directly, since it drops what later layers add.

Shapes: n heads, P pairs, B pairs of a batch, T positions, L layers, H heads of a layer, D head_dim.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pilot.errors import PilotError
from pilot.experiments.attribution.rules import RelevanceRules
from pilot.experiments.attribution.runs import ContrastBatch, GradientRuns, interpolated
from pilot.experiments.donors import ConstantDonor, mean_donor, zero_donor
from pilot.experiments.effects import PairExperiment
from pilot.interventions import head_counts, single_heads


class Attribution(NamedTuple):
    """Of the heads of a model, in the order of `single_heads`.

    change   (n, P) LD patched - LD recipient, as a method has it
    cost     forwards of the model for each pair; a backward pass counts as a forward
    """

    change: np.ndarray
    cost: float


Method = Callable[[PairExperiment], Attribution]


def attribution_methods(steps: Sequence[int]) -> dict[str, Method]:
    """All methods by name; integrated gradients with each of these numbers of steps."""
    integrated = (f"ig_{path}_{number}" for path in ("inputs", "activations") for number in steps)
    names = (
        "atp_recipient",
        "atp_donor",
        "atp_mean",
        "atp_star",
        "relp",
        *integrated,
        "zero_ablation",
        "mean_ablation",
    )
    return {name: method_named(name) for name in names}


def method_named(name: str) -> Method:
    """The method of a name as above. Raises PilotError for another name."""
    plain: dict[str, Method] = {
        "atp_recipient": partial(attribution_patching, at="recipient"),
        "atp_donor": partial(attribution_patching, at="donor"),
        "atp_mean": partial(attribution_patching, at="mean"),
        "atp_star": gradient_drop,
        "relp": relevance_patching,
        "zero_ablation": zero_ablation,
        "mean_ablation": mean_ablation,
    }
    if name in plain:
        return plain[name]
    integrated = re.fullmatch(r"ig_(inputs|activations)_([1-9]\d{0,3})", name)
    if not integrated:
        known = (*plain, "ig_inputs_M", "ig_activations_M")
        raise PilotError(f"{name} is not a method; known, with M steps: {', '.join(known)}")
    return partial(integrated_gradients, steps=int(integrated[2]), path=integrated[1])


def exact(experiment: PairExperiment) -> Attribution:
    """Every head patched: as many forwards as heads, and one each for recipient and donor."""
    heads = single_heads(experiment.engine.model)
    return Attribution(experiment.changes(heads), len(heads) + 2)


def attribution_patching(experiment: PairExperiment, at: str) -> Attribution:
    """`at` is where the gradient is taken: "recipient", "donor" or the "mean" of both."""
    runs = GradientRuns(experiment)

    def change(batch: ContrastBatch) -> Tensor:
        z, gradients = {}, []
        for side, ids in {"recipient": batch.recipient, "donor": batch.donor}.items():
            if at in (side, "mean"):
                z[side], gradient = runs.gradients(ids, batch.answers)
                gradients.append(gradient)
            else:
                z[side] = runs.outputs(ids)
        terms = [_first_order(z["recipient"], z["donor"], gradient) for gradient in gradients]
        return torch.stack(terms).mean(0)

    return _over_batches(runs, change)


def relevance_patching(experiment: PairExperiment) -> Attribution:
    """The gradient at the recipient's z by the rules of relevance patching.

    Raises PilotError for a model that caps its logits by tanh, for which there is no rule.
    """
    runs = GradientRuns(experiment)
    if getattr(runs.model.config, "final_logit_softcapping", None):
        raise PilotError("relevance patching has no rule for softcapped logits: leave the method out for this model")

    def change(batch: ContrastBatch) -> Tensor:
        with RelevanceRules():
            before, gradient = runs.gradients(batch.recipient, batch.answers)
        return _first_order(before, runs.outputs(batch.donor), gradient)

    return _over_batches(runs, change)


def integrated_gradients(experiment: PairExperiment, steps: int, path: str) -> Attribution:
    """The gradient averaged over `steps` points between recipient and donor (the midpoint rule).

    path   "inputs": the token embeddings are interpolated, all gradients come from the same runs; "activations": z of
           one layer after the other is
    """
    runs = GradientRuns(experiment)
    shares = [(step + 0.5) / steps for step in range(steps)]

    def along_inputs(batch: ContrastBatch) -> Tensor:
        before, after = runs.outputs(batch.recipient), runs.outputs(batch.donor)
        terms = []
        for share in shares:
            with interpolated(runs.model, batch.recipient, batch.donor, share):
                gradient = runs.gradients(batch.recipient, batch.answers).gradient
            terms.append(_first_order(before, after, gradient))
        return torch.stack(terms).mean(0)

    def along_activations(batch: ContrastBatch) -> Tensor:
        before, after = runs.outputs(batch.recipient), runs.outputs(batch.donor)
        layers = []
        for layer, (start, end) in enumerate(zip(before, after, strict=True)):
            terms = []
            for share in shares:
                gradient = runs.gradient_at(batch.recipient, batch.answers, layer, share * (end - start))
                terms.append(_first_order([start], [end], [gradient]))
            layers.append(torch.stack(terms).mean(0))
        return torch.cat(layers)

    return _over_batches(runs, {"inputs": along_inputs, "activations": along_activations}[path])


def gradient_drop(experiment: PairExperiment) -> Attribution:
    """GradDrop of AtP*: the mean size of the attribution over gradients that each leave out one layer other than the
    head's own, with the sign of the whole gradient's, which AtP* itself does not give.

    Where a head's direct and indirect effect cancel, some of these gradients still show them.
    """
    runs = GradientRuns(experiment)

    def change(batch: ContrastBatch) -> Tensor:
        before, gradient = runs.gradients(batch.recipient, batch.answers)
        after = runs.outputs(batch.donor)
        dropped = runs.gradients_without_layers(batch.recipient, batch.answers)
        sizes = torch.stack([_first_order(before, after, each).abs() for each in dropped])
        return sizes.sum(0) / max(len(before) - 1, 1) * _first_order(before, after, gradient).sign()

    return _over_batches(runs, change)


def zero_ablation(experiment: PairExperiment) -> Attribution:
    """What zeros in place of a head's output change, whatever the donor has there."""
    return _ablation(experiment, zero_donor(experiment.engine.model))


def mean_ablation(experiment: PairExperiment) -> Attribution:
    """What a head's mean output, by position over the recipients, changes."""
    return _ablation(experiment, mean_donor(experiment.engine.model, experiment.recipients))


def _ablation(experiment: PairExperiment, donor: ConstantDonor) -> Attribution:
    heads = single_heads(experiment.engine.model)
    return Attribution(experiment.changes(heads, donor), len(heads) + 1)


def _over_batches(runs: GradientRuns, change: Callable[[ContrastBatch], Tensor]) -> Attribution:
    """`change` gives (n, B)."""
    n_layers, n_heads = head_counts(runs.model)
    changes = np.empty((n_layers * n_heads, len(runs.experiment)))
    for batch in runs.batches():
        changes[:, batch.index] = change(batch).cpu().double().numpy()  # bfloat16 is unknown to NumPy
    return Attribution(changes, runs.cost)


def _first_order(before: Sequence[Tensor], after: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
    """What the step from one z to the other changes along the gradient, by head: L tensors (B, T, H, D) -> (n, B)."""
    layers = zip(before, after, gradient, strict=True)
    return torch.cat([torch.einsum("bthd,bthd->hb", end - start, slope) for start, end, slope in layers])
