"""The reference: the model's own forward, once for each intervention and batch of pairs, its heads replaced by hooks.

Slow, and exact by construction: what every other implementation is held against.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from pilot.models.hooks import head_outputs, replaced
from pilot.sweep.inputs import SweepInputs
from pilot.sweep.results import Measurements


def sweep_by_forwards(model: nn.Module, inputs: SweepInputs, rows: int, measurements: Measurements) -> None:
    """Run every intervention on every pair, as many pairs at a time as make `rows` positions."""
    device = next(model.parameters()).device
    for pairs in torch.arange(len(inputs.recipient)).split(max(1, rows // inputs.recipient.shape[1])):
        tokens, read = inputs.recipient[pairs].to(device), inputs.read[pairs].to(device)
        source = inputs.given_outputs(pairs)
        if source is None:
            source = head_outputs(model, inputs.unpatched(pairs)[-len(pairs) :].to(device))
        source = [z.to(device) for z in source]
        put = partial(measurements.put, pairs=pairs.to(device))
        for i, intervention in enumerate(inputs.interventions):
            with replaced(model, intervention, source):
                logits = forward_logits(model, tokens)
            logits = logits.gather(1, read.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))
            if inputs.tokens is not None:
                wanted = inputs.tokens[pairs].to(device)
                logits = logits.gather(2, wanted.unsqueeze(1).expand(-1, read.shape[1], -1))
            put([i], logits.unsqueeze(0))


def forward_logits(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Logits (batch, seq, vocab) of a forward that returns them, or returns an object with the attribute `logits`."""
    output = model(input_ids)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits
