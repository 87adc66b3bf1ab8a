"""The same heads of the same model patched by this project, by TransformerLens and by nnsight: results, then seconds.

    python tests/benchmarks/peers.py --model SmolLM2-135M-Instruct.Q4_1.gguf     (or `make peers`)

Pairs are those of indirect object identification (IOI), clean into corrupt. The recovery of every single head has to
agree, or nothing is timed. Then three sweeps are timed: all heads, 512 sets of the 12 heads with the largest effects,
drawn at random, and all of these sets. A peer runs a whole forward for each intervention, all pairs in one batch; it
is timed on a sample of interventions, and its seconds a forward give those of the sweep. It needs the extra `peers`.

Shapes: P pairs of T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

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
from pilot.runtime.cli import Parser, command
from pilot.runtime.files import write_json

ROUNDS = 3  # of every tool in turn, so that what else the machine does falls on all of them
CHECKED_PAIRS, TOLERANCE = 4, 1e-4
HEAD_PAIRS, SET_PAIRS = 32, 8
PLAYERS, SETS = 12, 512
SAMPLED_HEADS, SAMPLED_SETS = 8, 16  # interventions that a peer is timed on

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


@dataclass(frozen=True)
class Tools:
    """The engine and the peers on the same model, and pairs of one length."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    engine: SweepEngine
    pairs: Sequence[TokenPair]

    def experiment(self, n_pairs: int) -> PairExperiment:
        return PairExperiment(self.engine, self.pairs[:n_pairs], "denoising")

    def peer(self, name: str, n_pairs: int) -> Patched:
        """On a copy of the model, which a peer may change."""
        pairs = self.pairs[:n_pairs]
        corrupt, clean = (torch.tensor([getattr(pair, side).ids for pair in pairs]) for side in ("corrupt", "clean"))
        try:
            return PEERS[name](copy.deepcopy(self.model), self.tokenizer, corrupt, clean)
        except ModuleNotFoundError as error:
            raise PilotError(f"the peers need an extra: pip install -e '.[peers]' ({error})") from None


def check_recovery(tools: Tools, heads: Sequence[Intervention]) -> dict[str, float]:
    """The largest difference from each peer's recovery of a head. Raises PilotError for one above TOLERANCE."""
    experiment = tools.experiment(CHECKED_PAIRS)
    ours = experiment.recovery(heads)
    right, wrong = (
        torch.tensor([prompt.answer[0] for prompt in prompts])[:, None]
        for prompts in (experiment.donors, experiment.recipients)
    )
    largest = {}
    for name in PEERS:
        patched = tools.peer(name, CHECKED_PAIRS)
        ld = torch.stack([(logits.gather(1, right) - logits.gather(1, wrong))[:, 0] for logits in map(patched, heads)])
        theirs = (ld.double().numpy() - experiment.ld_recipient).sum(1) / experiment.gap.sum()
        largest[name] = float(np.abs(theirs - ours).max())
        if not largest[name] <= TOLERANCE:
            raise PilotError(f"the recovery of a head differs from that of {name} by {largest[name]:.1g}")
    return largest


def time_sweeps(tools: Tools, interventions: Sequence[Intervention], n_pairs: int, sample: int) -> dict[str, Any]:
    """Seconds of a sweep: measured for the engine, from a sample of the interventions for the peers."""
    experiment = tools.experiment(n_pairs)
    experiment.recovery(interventions[:1])  # what is common to all interventions
    patched = {name: tools.peer(name, n_pairs) for name in PEERS}
    step = max(1, len(interventions) // sample)
    few = list(interventions[::step])[:sample]
    seconds: dict[str, list[float]] = {"pilot": [], **{name: [] for name in PEERS}}
    for _ in range(ROUNDS):
        seconds["pilot"].append(stopwatch(lambda: experiment.recovery(interventions)))
        for name, patch in patched.items():
            taken = stopwatch(lambda patch=patch: [patch(intervention) for intervention in few])
            seconds[name].append(taken * len(interventions) / len(few))
    best = min(statistics.median(seconds[name]) for name in PEERS)
    return {
        "interventions": len(interventions),
        "pairs": n_pairs,
        "interventions_timed_of_peers": len(few),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "speedup_over_the_better": best / statistics.median(seconds["pilot"]),
    }


def stopwatch(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "fastest": min(values), "slowest": max(values)}


@torch.no_grad()
def compare(path: Path) -> dict[str, Any]:
    """Everything of `metrics/peers.json`."""
    model, tokenizer = load_model(path), load_tokenizer(path)
    texts = [pair for pair in TASKS["ioi"].pairs(HEAD_PAIRS, 0, tokenizer) if pair.split == "select"]
    pairs = tokenised(texts, tokenizer, model.config.max_position_embeddings).tokens
    tools = Tools(model, tokenizer, SweepEngine(model), pairs)
    heads = single_heads(model)
    largest = check_recovery(tools, heads)
    effects = np.abs(tools.experiment(SET_PAIRS).recovery(heads))
    every = head_subsets(tuple(heads[i][0] for i in np.argsort(-effects)[:PLAYERS]))
    sets = [every[i] for i in Random(0).sample(range(1, len(every)), SETS)]
    return {
        "threads": torch.get_num_threads(),
        "largest_difference_of_recovery": largest,
        "all_heads": time_sweeps(tools, heads, HEAD_PAIRS, SAMPLED_HEADS),
        "sets": time_sweeps(tools, sets, SET_PAIRS, SAMPLED_SETS),
        "every_set": time_sweeps(tools, every, SET_PAIRS, SAMPLED_SETS),
    }


def table(found: dict[str, Any]) -> str:
    """The sweeps in Markdown: median seconds, fastest and slowest of the rounds."""
    lines = [
        f"| {found['threads']} threads | pilot | TransformerLens | nnsight | faster than the better |",
        "|---|---|---|---|---|",
    ]
    for name in ("all_heads", "sets", "every_set"):
        sweep = found[name]
        cells = [
            f"{seconds['median']:.3g} s ({seconds['fastest']:.3g}-{seconds['slowest']:.3g})"
            for seconds in (sweep["seconds"][tool] for tool in ("pilot", *PEERS))
        ]
        title = f"{name.replace('_', ' ')}: {sweep['interventions']:,} x {sweep['pairs']} pairs"
        lines.append(f"| {title} | {' | '.join(cells)} | {sweep['speedup_over_the_better']:.1f}x |")
    return "\n".join(lines)


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="peers.py", description="Compare with TransformerLens and nnsight on IOI.")
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder or a GGUF file")
    parser.add_argument("--output", type=Path, default=Path("metrics/peers.json"), help="(default: %(default)s)")
    args = parser.parse_args(argv)
    found = compare(args.model)
    write_json(args.output, found)
    print(table(found))


if __name__ == "__main__":
    sys.exit(main())
