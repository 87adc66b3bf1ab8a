"""The sweeps that `make bench` times, and the plain loop that they are held against.

The loop is what a careful user writes without this project: the model's own forward on batches of pairs, one
intervention at a time. A hook on W_O writes the donor's z, saved once for each batch, in place. Logits are computed for
the last position only, if the model can be told so.
"""

from __future__ import annotations

import inspect
import os
import re
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from pilot.interventions import HeadPatch, Intervention, head_subsets, single_heads, single_positions
from pilot.models.hooks import head_outputs, output_projections
from pilot.models.sizes import ModelSizes
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.sweep import SweepEngine

SHRINK = int(os.environ.get("BENCH_SHRINK", "1"))  # divides the pairs of every row, to try the benchmark itself
PILOT_SEQ, LLAMA_SEQ, LLAMA_LIVE = 16, 14, 5


@dataclass(frozen=True)
class Row:
    """One sweep: the last position of every pair is read.

    pairs        of the sweep; eager_pairs, loop_pairs: of what is timed of the others, and scaled up
    loop_share   one in so many interventions is timed of the loop, and scaled up
    runs         how often all of them are timed, in turn
    """

    name: str
    model: str
    interventions: Callable[[nn.Module], Sequence[Intervention]]
    pairs: int
    eager_pairs: int
    loop_pairs: int
    loop_share: int
    runs: int = 5

    @classmethod
    def of(cls, name: str, model: str, interventions: Callable, pairs: int, **timed: int) -> Row:
        """With pairs divided by SHRINK; what `timed` does not say is timed whole."""
        whole = {"eager_pairs": pairs, "loop_pairs": pairs, "loop_share": 1} | timed
        for key in ("eager_pairs", "loop_pairs"):
            whole[key] = max(1, whole[key] // SHRINK)
        return cls(name, model, interventions, max(1, pairs // SHRINK), **whole)


def _all_sets(model: nn.Module) -> Sequence[Intervention]:
    return head_subsets([patch for (patch,) in single_heads(model)])


def _positions(model: nn.Module) -> Sequence[Intervention]:
    return single_positions(model, PILOT_SEQ)


def _upper_sets(model: nn.Module) -> Sequence[Intervention]:
    """All sets of 12 heads, one in layer 17 and one in each of the layers 19 to 29."""
    layers = [17, *range(19, 30)]
    return head_subsets([single_heads(model)[layer * 9 + layer % 9][0] for layer in layers])


def sets_of_16(_: nn.Module) -> Sequence[Intervention]:
    """All sets of 16 heads, one in each of the layers 14 to 29."""
    return head_subsets([HeadPatch(14 + i, i % 9) for i in range(16)])


ROWS = [
    Row.of("pilot, 16 single heads", "pilot", single_heads, 16),
    Row.of("pilot, 16 single heads", "pilot", single_heads, 512),
    Row.of("pilot, 256 heads and positions", "pilot", _positions, 256, loop_share=16),
    Row.of("pilot, 256 heads and positions", "pilot", _positions, 512, loop_share=16),
    Row.of("pilot, 65,536 sets of heads", "pilot", _all_sets, 256, eager_pairs=64, loop_share=4096, runs=3),
    Row.of("Llama, 270 single heads", "llama", single_heads, 32, eager_pairs=8, loop_share=90, runs=3),
    Row.of("Llama, 4,096 sets of 12 heads", "llama", _upper_sets, 8, eager_pairs=4, loop_share=256),
    Row.of("Llama, 65,536 sets of 16 heads", "llama", sets_of_16, 2, loop_share=4096, runs=3),
]
LARGEST = ROWS[4]


@cache
def model_of(name: str) -> nn.Module:
    """Random weights: `pilot` is the default model, `llama` has the shape of SmolLM2-135M."""
    torch.manual_seed(0)
    if name == "pilot":
        model: nn.Module = PilotTransformer(ModelConfig())
        for parameter in model.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.1)  # larger than at the start of training: patches should matter
        return model.eval()
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    config = LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, initializer_range=0.04, **heads)
    return LlamaForCausalLM(config).eval()


@dataclass(frozen=True)
class Pairs:
    """(P, T) tokens of the runs, and what is read: the last position, the logits of two tokens there."""

    recipient: Tensor
    donor: Tensor
    read: Tensor
    tokens: Tensor

    def __getitem__(self, part: slice) -> Pairs:
        return Pairs(self.recipient[part], self.donor[part], self.read[part], self.tokens[part])

    def __len__(self) -> int:
        return len(self.recipient)


def pairs_of(name: str, number: int) -> Pairs:
    """Pilot: pairs that share the opening marker and no more. Llama: one token differs, 5 of 14 positions are live."""
    vocab, seq = ModelSizes.of(model_of(name)).vocab_size, PILOT_SEQ if name == "pilot" else LLAMA_SEQ
    generator = torch.Generator().manual_seed(1)
    recipient = torch.randint(vocab, (number, seq), generator=generator)
    donor = torch.randint(vocab, (number, seq), generator=generator) if name == "pilot" else recipient.clone()
    donor[:, 0] = recipient[:, 0]
    differs = 1 if name == "pilot" else seq - LLAMA_LIVE
    donor[:, differs] = (recipient[:, differs] + 1) % vocab
    return Pairs(recipient, donor, torch.full((number, 1), seq - 1), torch.tensor([[0, 1]]).expand(number, -1))


def difference(logits: Tensor, _: Tensor) -> Tensor:
    """As small as a logit difference: of logits (rows, 1, 2), (rows, 1)."""
    return logits[..., 0] - logits[..., 1]


def by_engine(engine: SweepEngine, interventions: Sequence[Intervention], pairs: Pairs) -> Tensor:
    """(n_interventions, P, 1)."""
    return engine.run(
        pairs.recipient, pairs.donor, interventions, read=pairs.read, tokens=pairs.tokens, measure=difference
    )


@torch.no_grad()
def by_plain_loop(model: nn.Module, interventions: Sequence[Intervention], pairs: Pairs, batch: int) -> Tensor:
    """(n_interventions, P, 1), `batch` pairs at a time."""
    projections, n_heads = output_projections(model), ModelSizes.of(model).n_heads
    options = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    values = torch.empty(len(interventions), len(pairs), 1)
    for first in range(0, len(pairs), batch):
        some = pairs[first : first + batch]
        donor = head_outputs(model, some.donor)
        for i, intervention in enumerate(interventions):
            handles = [
                projections[patch.layer].register_forward_pre_hook(_writing(patch, donor[patch.layer], n_heads))
                for patch in intervention
            ]
            output = model(some.recipient, **options)
            for handle in handles:
                handle.remove()
            logits = getattr(output, "logits", output)[:, -1:].gather(2, some.tokens[:, None])
            values[i, first : first + batch] = difference(logits, some.read)
    return values


def _writing(patch, z: Tensor, n_heads: int) -> Callable:
    def write(_: nn.Module, args: tuple) -> None:
        args[0].unflatten(-1, (n_heads, -1))[:, patch.start : patch.stop, patch.head] = z[
            :, patch.start : patch.stop, patch.head
        ]

    return write


def peak_memory(row: Row) -> int:
    """Bytes that this process has had in memory at most, once it has run a row; for a process of its own."""
    model = model_of(row.model)
    by_engine(SweepEngine(model), row.interventions(model), pairs_of(row.model, row.pairs))
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss begins with what the parent had
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
