"""Runs many interventions over many pairs.

Shapes: P pairs, T positions, R read positions, V vocabulary, M measures, H heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor
from tqdm import tqdm

from pilot.errors import PilotError
from pilot.interventions import Intervention, check_intervention
from pilot.models.hooks import attention_settings, head_outputs, patched
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.ops.patched_attention import which_impl
from pilot.sweep.scheduler import Measure, Results, row_budget, sweep_trie


class SweepEngine:
    """Sweeps over one model: what does not depend on the pairs is made ready once.

    model   in eval mode, on the device where it is to run
    impl    "fused" and "eager" compute once what interventions have in common (pilot.sweep.plan), on the operators or
            in PyTorch; "auto" is fused where it runs, else eager; "reference" runs the whole model for every
            intervention. Raises PilotError if it is "fused" and the operators cannot run

    The attribute `impl` is the one chosen: "fused", "eager" or "reference".
    """

    def __init__(self, model: PilotTransformer, impl: str = "auto"):
        self.model = model
        self.impl = resolve_impl(model, impl)

    @torch.no_grad()
    def run(
        self,
        recipient: Tensor,
        donor: Tensor | Sequence[Tensor],
        interventions: Sequence[Intervention],
        *,
        read: Tensor,
        measure: Measure | None = None,
        rows: int | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Patch every intervention's heads of every recipient with its donor's, and measure what the model then says.

        recipient       (P, T) int64 tokens of the runs that are patched
        donor           (P, T) int64 tokens of the runs that head outputs are taken from; or the outputs themselves,
                        for each layer (P or 1, T, H, D)
        interventions   tuples of HeadPatch; the empty tuple is the unpatched run
        read            (P, R) int64, the positions whose logits are wanted
        measure         (logits (rows, R, V), pair (rows,) int64) -> (rows, M), called from several threads; None: the
                        logits themselves
        rows            (intervention, pair, position) rows to compute at a time; None: what suits the device
        progress        show a progress bar, where standard error is a terminal

        Returns (n_interventions, P, M), or (n_interventions, P, R, V) without a measure, on the CPU. No other memory
        grows with the number of interventions or pairs. Raises PilotError for a patch that the model or the sequence
        has no room for, and for shapes that do not fit.
        """
        model = self.model
        _check(model.config, recipient, donor, interventions, read)
        bar = tqdm(
            total=len(interventions) * len(recipient),
            unit="forward",
            unit_scale=True,
            disable=None if progress else True,
        )
        results = Results(len(interventions), len(recipient), measure, bar)
        run = _sweep_whole_runs if self.impl == "reference" else sweep_trie
        with bar:
            run(model, recipient, donor, interventions, read, self.impl, rows or row_budget(model), results)
        return results.values.cpu()

    def predict(
        self,
        recipient: Tensor,
        donor: Tensor | Sequence[Tensor],
        interventions: Sequence[Intervention],
        read: Tensor,
    ) -> Tensor:
        """The arg-max tokens of every patched run at the read positions: (n_interventions, P, R) int64. See `run`."""
        return self.run(recipient, donor, interventions, read=read, measure=lambda logits, _: logits.argmax(-1))


def sweep(
    model: PilotTransformer,
    recipient: Tensor,
    donor: Tensor | Sequence[Tensor],
    interventions: Sequence[Intervention],
    *,
    read: Tensor,
    measure: Measure | None = None,
    impl: str = "auto",
    rows: int | None = None,
    progress: bool = False,
) -> Tensor:
    """One sweep of a model: `SweepEngine(model, impl).run(...)`, which says what the arguments are."""
    return SweepEngine(model, impl).run(
        recipient, donor, interventions, read=read, measure=measure, rows=rows, progress=progress
    )


def predict(
    model: PilotTransformer,
    recipient: Tensor,
    donor: Tensor | Sequence[Tensor],
    interventions: Sequence[Intervention],
    read: Tensor,
    impl: str = "auto",
) -> Tensor:
    """`SweepEngine(model, impl).predict(...)`."""
    return SweepEngine(model, impl).predict(recipient, donor, interventions, read)


def resolve_impl(model: PilotTransformer, impl: str) -> str:
    """The implementation, "reference", "fused" or "eager", that a sweep of `model` with this `impl` takes.

    Raises PilotError if `impl` is "fused" and the operator cannot run.
    """
    return impl if impl == "reference" else which_impl(impl, model.unembed.weight.detach())


def _sweep_whole_runs(model, recipient, donor, interventions, read, impl, rows, results) -> None:
    """The reference: one forward of the whole model for each intervention and batch of pairs."""
    device = model.unembed.weight.device
    with attention_settings(model, record_head_output=False, impl="eager"):
        for pairs in torch.arange(len(recipient)).split(max(1, rows // recipient.shape[1])):
            source = _source(model, donor, pairs, device)
            tokens, wanted = recipient[pairs].to(device), read[pairs].to(device)
            for i, intervention in enumerate(interventions):
                with patched(model, intervention, source):
                    logits = model(tokens)
                logits = logits.gather(1, wanted.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))
                results.put([i], logits.unsqueeze(0), pairs.to(device))


def _check(config: ModelConfig, recipient, donor, interventions, read) -> None:
    pairs, seq = recipient.shape
    if read.shape[0] != pairs or (isinstance(donor, Tensor) and donor.shape != recipient.shape):
        shape = tuple(donor.shape) if isinstance(donor, Tensor) else f"{len(donor)} layers"
        raise PilotError(f"recipient {tuple(recipient.shape)}, donor {shape} and read {tuple(read.shape)} do not fit")
    if read.numel() and not 0 <= int(read.min()) <= int(read.max()) < seq:
        raise PilotError(f"read holds positions outside the sequence of {seq} positions (0 to {seq - 1})")
    check_intervention(tuple(dict.fromkeys(chain.from_iterable(interventions))), config, seq)
    if not interventions or not read.numel():
        raise PilotError("a sweep needs at least one intervention, one pair and one position to read")


def _source(model: PilotTransformer, donor, pairs: Tensor, device: torch.device) -> list[Tensor]:
    if isinstance(donor, Tensor):
        return head_outputs(model, donor[pairs].to(device))
    return [(z if len(z) == 1 else z[pairs]).to(device) for z in donor]
