"""What each approximation is blind to: do they see the heads of planted circuits that have an effect?

The circuits are those of pilot.experiments.planted.kinds, planted without noise, so that a method is blind to what it
does not see; and one more:

    saturated   one head copies the bit to the last position, where another attends by it to one of two positions, and
                writes to the answer which. Its attention is saturated: the pattern does not move with small changes

Shapes: n heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pilot.experiments.attribution.comparison import EXACT, attributions
from pilot.experiments.attribution.methods import attribution_methods
from pilot.experiments.effects import PairExperiment
from pilot.experiments.planted.circuits import Circuit, draw_pairs, random_circuit
from pilot.experiments.planted.kinds import KINDS, N_CHANNELS, Channel
from pilot.experiments.planted.scores import SIZES
from pilot.experiments.planted.weights import plant
from pilot.experiments.statistics import ratio_of_means
from pilot.inputs.pairs import DIRECTIONS
from pilot.models.transformer import Block, PilotTransformer
from pilot.sweep import SweepEngine

SATURATED = "saturated"
CIRCUITS = (*KINDS, SATURATED)


class Sight(NamedTuple):
    """How a method sees the heads of planted circuits: those that exactly recover more than a least effect, in size
    (effective), those of them that the method has so too, with the right sign (seen), and heads below the least effect
    that it has above (false).
    """

    effective: int
    seen: int
    false: int

    @classmethod
    def of(cls, found: np.ndarray, truth: np.ndarray, min_effect: float) -> Sight:
        """Recoveries of the same heads, (n,) each."""
        large, claimed = np.abs(truth) > min_effect, np.abs(found) > min_effect
        seen = large & claimed & (np.sign(found) == np.sign(truth))
        return cls(int(large.sum()), int(seen.sum()), int((claimed & ~large).sum()))

    def __add__(self, other: Sight) -> Sight:  # type: ignore[override]
        return Sight(*map(sum, zip(self, other, strict=True)))


def sight(
    circuit: str, seed: Sequence[int], n_pairs: int, steps: Sequence[int], min_effect: float, impl: str
) -> dict[str, dict[str, Sight]]:
    """Of one of CIRCUITS in a random place: by direction and method."""
    rng = np.random.default_rng(seed)
    planted = random_circuit(KINDS["chain" if circuit == SATURATED else circuit], *SIZES[rng.integers(len(SIZES))], rng)
    model = plant(planted, rng, noise=0.0)
    if circuit == SATURATED:
        _attend_by_the_bit(model, planted)
    engine, pairs = SweepEngine(model, impl), draw_pairs(planted, n_pairs, rng)
    result = {}
    for direction in DIRECTIONS:
        experiment = PairExperiment(engine, pairs, direction)
        recoveries = {
            name: ratio_of_means(change, experiment.gap)
            for name, (change, _) in attributions(experiment, attribution_methods(steps)).items()
        }
        result[direction] = {name: Sight.of(value, recoveries[EXACT], min_effect) for name, value in recoveries.items()}
    return result


@torch.no_grad()
def _attend_by_the_bit(model: PilotTransformer, chain: Circuit) -> None:
    """Make a saturated circuit of a chain, whose second head attends to the position in between by a constant query.

    Its query becomes the bit that the first head writes, also at the last position. It then attends to the signal's
    position or to the one in between, and writes half a unit up or down for it.
    """
    block, head = model.blocks[chain.heads[1].layer], chain.heads[1].head
    assert isinstance(block, Block)
    attn = block.attn
    q, k, v = attn.qkv.weight.view(3, attn.n_heads, attn.head_dim, -1)[:, head]
    q_bias = attn.qkv.bias.view(3, attn.n_heads, -1)[0, head]
    out = attn.out.weight.unflatten(1, (attn.n_heads, -1))[:, head]
    side = _reader(Channel.AT_SIGNAL) - _reader(Channel.AT_BETWEEN)
    q[0], q_bias[0] = q_bias[0] * _reader(Channel.FIRST), 0.0
    k[0], v[0] = side, side
    out[:, 0] = _reader(Channel.ANSWER)


def _reader(channel: Channel) -> Tensor:
    """What a channel is read by: the residual stream holds it as (+x, -x). Written, it adds half a unit."""
    weights = torch.zeros(N_CHANNELS, 2)
    weights[channel] = torch.tensor([0.5, -0.5])
    return weights.flatten()


def total_sight(circuits: Iterable[dict[str, dict[str, Sight]]]) -> dict[str, dict[str, dict[str, int]]]:
    """Added up over circuits: the counts of Sight by direction and method."""
    totals: dict[str, dict[str, Sight]] = {}
    for circuit in circuits:
        for direction, methods in circuit.items():
            of_direction = totals.setdefault(direction, {})
            for name, seen in methods.items():
                of_direction[name] = of_direction.get(name, Sight(0, 0, 0)) + seen
    return {
        direction: {name: seen._asdict() for name, seen in methods.items()} for direction, methods in totals.items()
    }
