"""Runs many interventions over many pairs.

Shapes: P pairs, T positions, R read positions, V vocabulary, M measures, H heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

from pilot.attention import which_impl
from pilot.errors import PilotError
from pilot.interventions import Intervention, check_intervention
from pilot.model import PilotTransformer
from pilot.patching import attention_settings, head_outputs, patched

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@torch.no_grad()
def sweep(
    model: PilotTransformer,
    recipient: torch.Tensor,
    donor: torch.Tensor | Sequence[torch.Tensor],
    interventions: Sequence[Intervention],
    *,
    read: torch.Tensor,
    measure: Measure | None = None,
    impl: str = "auto",
    batch_size: int = 512,
    progress: bool = False,
) -> torch.Tensor:
    """Patch every intervention's heads of every recipient with its donor's, and measure what the model then says.

    recipient       (P, T) int64 tokens of the runs that are patched
    donor           (P, T) int64 tokens of the runs that head outputs are taken from; or the outputs themselves,
                    for each layer (P or 1, T, H, D)
    interventions   tuples of HeadPatch; the empty tuple is the unpatched run
    read            (P, R) int64, the positions whose logits are wanted
    measure         (logits (rows, R, V), pair (rows,) int64) -> (rows, M); None: the logits themselves
    impl            of pilot.attention: "fused", "eager", or "auto" for fused where it runs

    Returns (n_interventions, P, M), or (n_interventions, P, R, V) without a measure, on the CPU. Raises PilotError
    for a patch that the model or the sequence has no room for, and for shapes that do not fit.
    """
    pairs, seq = recipient.shape
    if read.shape[0] != pairs or (isinstance(donor, torch.Tensor) and donor.shape != recipient.shape):
        shape = tuple(donor.shape) if isinstance(donor, torch.Tensor) else f"{len(donor)} layers"
        raise PilotError(f"recipient {tuple(recipient.shape)}, donor {shape} and read {tuple(read.shape)} do not fit")
    if read.numel() and not 0 <= int(read.min()) <= int(read.max()) < seq:
        raise PilotError(f"read holds positions outside the sequence of {seq} positions (0 to {seq - 1})")
    for intervention in interventions:
        check_intervention(intervention, model.config, seq)
    if not interventions or not pairs:
        raise PilotError("a sweep needs at least one intervention and one pair")
    device = next(model.parameters()).device
    results = None
    bar = tqdm(total=len(interventions) * pairs, unit="forward", unit_scale=True, disable=None if progress else True)
    settings = {"record_head_output": False, "impl": resolve_impl(model, impl)}
    with bar, attention_settings(model, **settings):
        for rows in torch.arange(pairs).split(batch_size):
            source = _source(model, donor, rows, device)
            tokens, wanted = recipient[rows].to(device), read[rows].to(device)
            for i, intervention in enumerate(interventions):
                with patched(model, intervention, source):
                    logits = model(tokens)
                logits = logits.gather(1, wanted.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))
                value = logits if measure is None else measure(logits, rows.to(device))
                if results is None:
                    results = torch.empty(len(interventions), pairs, *value.shape[1:], dtype=value.dtype)
                results[i, rows] = value.cpu()
                bar.update(len(rows))
    return results


def predict(
    model: PilotTransformer,
    recipient: torch.Tensor,
    donor: torch.Tensor | Sequence[torch.Tensor],
    interventions: Sequence[Intervention],
    impl: str = "auto",
) -> torch.Tensor:
    """The arg-max token at every position of every patched run: (n_interventions, P, T) int64. See `sweep`."""
    pairs, seq = recipient.shape
    every = torch.arange(seq).expand(pairs, -1)
    return sweep(
        model, recipient, donor, interventions, read=every, measure=lambda logits, _: logits.argmax(-1), impl=impl
    )


def resolve_impl(model: PilotTransformer, impl: str) -> str:
    """The implementation, "fused" or "eager", that a sweep of `model` with this `impl` takes.

    Raises PilotError if `impl` is "fused" and the operator cannot run.
    """
    return which_impl(impl, model.unembed.weight.detach())


def _source(model, donor, rows: torch.Tensor, device: torch.device) -> list[torch.Tensor]:
    if isinstance(donor, torch.Tensor):
        return head_outputs(model, donor[rows].to(device))
    return [z.to(device) if len(z) == 1 else z[rows].to(device) for z in donor]
