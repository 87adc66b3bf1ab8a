"""The same heads of the same model patched by this project, by TransformerLens and by nnsight: results, then seconds.

    python tests/benchmarks/peers.py --model SmolLM2-135M-Instruct.Q4_1.gguf

Pairs are those of indirect object identification (IOI), patched from clean into corrupt. The recovery of every single
head has to agree, else nothing is timed. Two sweeps are timed: all heads, and random sets of the 12 largest. The peers run one
forward for each intervention, all pairs in a batch, so a sample of interventions gives their seconds a forward, and
with these the sweep's. Needs the extra `peers`.

Shapes: P pairs of T tokens, V vocabulary.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pilot import SweepEngine, head_subsets, load_model, single_heads
from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.inputs.pairs import TokenPair
from pilot.interventions import Intervention
from pilot.language import load_tokenizer
from pilot.language.pairs import tokenised
from pilot.language.tasks import TASKS
from pilot.runtime.cli import command
from pilot.runtime.files import write_json

ROUNDS = 3  # each tool in turn, so that what else the machine does falls on all of them
CHECKED_PAIRS, TOLERANCE = 4, 1e-4
HEAD_PAIRS, SET_PAIRS = 32, 8
PLAYERS, SETS = 12, 512
SAMPLE = {"all_heads": 8, "sets": 16}  # interventions that the peers are timed on

Patched = Callable[[Intervention], Tensor]  # the logits of the last position with these heads patched, (P, V)


def transformer_lens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipient: Tensor, donor: Tensor
) -> Patched:
    """`run_with_hooks` on the cached z of the donor, in the way of `transformer_lens.patching`."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        "HuggingFaceTB/SmolLM2-135M-Instruct", hf_model=model, tokenizer=tokenizer, device="cpu"
    )
    _, cache = bridge.run_with_cache(donor, names_filter=lambda name: name.endswith("hook_z"))

    def patched(intervention: Intervention) -> Tensor:
        def replace(layer: int, z: Tensor) -> Tensor:
            for patch in intervention:
                if patch.layer == layer:
                    z[:, :, patch.head] = cache["z", layer][:, :, patch.head]
            return z

        hooks = [
            (f"blocks.{layer}.attn.hook_z", lambda z, hook, layer=layer: replace(layer, z))
            for layer in sorted({patch.layer for patch in intervention})
        ]
        return bridge.run_with_hooks(recipient, fwd_hooks=hooks, logits_to_keep=1)[:, -1]

    return patched


def nnsight(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipient: Tensor, donor: Tensor) -> Patched:
    """One trace for each intervention, which writes into what the output projections read."""
    from nnsight.modeling.transformers import TransformersModel

    traced = TransformersModel(model, tokenizer=tokenizer, task="text-generation")
    layers, size = traced.model.layers, model.config.head_dim
    donor_z: list[Tensor] = []
    with traced.trace(donor):
        for layer in layers:
            donor_z.append(layer.self_attn.o_proj.input.save())

    def patched(intervention: Intervention) -> Tensor:
        with traced.trace(recipient, logits_to_keep=1):
            for patch in sorted(intervention):
                columns = slice(patch.head * size, (patch.head + 1) * size)
                layers[patch.layer].self_attn.o_proj.input[..., columns] = donor_z[patch.layer][..., columns]
            logits = traced.lm_head.output.save()
        return logits[:, -1]

    return patched


PEERS = {"transformer_lens": transformer_lens, "nnsight": nnsight}
