"""The weights of planted circuits, set by hand.

The residual stream holds channels, each a pair of coordinates (+x, -x): its mean is zero. One constant channel
dominates its norm, so LayerNorm multiplies by nearly the same number everywhere, which its gain undoes. A head attends
to one marked position alone and copies channels of its token, each through a dimension of its own.

Three nuisances make pairs differ, as those of a trained model do. None moves the mean of a recovery away from what the
kind of circuit says:

    swing      heads that write the bit to the answer write more of it for some tokens, each head by a factor of its own
    residue    heads write nuisances of the token that cancel as long as all read the same one; patched, they leave a
               residue that the MLP clips and adds to the answer, in favour of either side alike
    bulk       distractor heads write ten times as much to where nothing reads it
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from pilot.experiments.planted.circuits import N_NUISANCES, SEQ_LEN, Circuit
from pilot.experiments.planted.kinds import N_CHANNELS, N_RESIDUES, Channel, Step
from pilot.models.transformer import Block, PilotTransformer

_WRITE = torch.kron(torch.eye(N_CHANNELS), torch.tensor([1.0, -1.0]))  # residual stream = channels @ _WRITE
_READ = _WRITE.T / 2  # channels = residual stream @ _READ

_CONSTANT_SIZE = 1000.0
_FOCUS = 30.0  # how far the attention score of a head's mark is above those of other positions
_STEEPNESS = 20.0  # of the MLP's steps: their GELUs then bend within a tenth of the width
_ANSWER_LOGIT = 10.0  # the mean logit difference of a run whose bit is 1, and minus that of one whose bit is 0
_SWING = 0.6  # at most: a run never swings to the wrong answer
_RESIDUE = 0.5  # a head's typical share in a residue: two tokens' nuisances are then often farther apart than the clip
_OF_RESIDUES = 1.6  # times what a step adds: about the standard deviation of a head's recovery
_DISTRACTION = 10.0

Copy = tuple[int, int, float]  # source, target, size


@torch.no_grad()
def plant(circuit: Circuit, rng: np.random.Generator, noise: float) -> PilotTransformer:
    """The model, in eval mode. `rng` draws its nuisances.

    noise   the typical standard deviation, from pair to pair, of the recovery by a head without a part in the answer
    """
    model = PilotTransformer(circuit.config).eval()
    for parameter in model.parameters():
        parameter.zero_()
    for norm in model.modules():
        if isinstance(norm, torch.nn.LayerNorm):
            norm.weight.fill_(_CONSTANT_SIZE / N_CHANNELS**0.5)
    _embed(model, circuit, rng)
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    for (layer, head), (mark, copies) in _heads(circuit, rng).items():
        _attend_and_copy(blocks[layer], head, mark, copies)
    residues = (Step({Channel.RESIDUE + k: 1.0}, output=noise * _OF_RESIDUES) for k in range(N_RESIDUES))
    _decide(blocks[-1], [*circuit.kind.steps, *residues])
    _unembed(model)
    return model


def _embed(model: PilotTransformer, circuit: Circuit, rng: np.random.Generator) -> None:
    bits = torch.tensor([-1.0, 1.0]).repeat(N_NUISANCES)
    swing = rng.exponential(size=N_NUISANCES)  # skewed, as effects are
    nuisances = rng.standard_normal((N_NUISANCES, N_RESIDUES))
    tokens = torch.zeros(2 * N_NUISANCES, N_CHANNELS)
    tokens[:, Channel.CONSTANT] = _CONSTANT_SIZE
    tokens[:, Channel.BIT] = bits
    tokens[:, Channel.SWING] = bits * _of_tokens(swing - swing.mean())
    tokens[:, Channel.CODE] = _of_tokens(np.arange(N_NUISANCES) % 8 * 2 / 7 - 1)
    tokens[:, Channel.NUISANCE : Channel.NUISANCE + N_RESIDUES] = _of_tokens(nuisances - nuisances.mean(0))
    positions = torch.zeros(SEQ_LEN, N_CHANNELS)
    positions[circuit.signal, Channel.AT_SIGNAL] = 1
    for patch, planted in zip(circuit.heads, circuit.kind.heads, strict=True):
        if planted.between:
            positions[patch.start, Channel.AT_BETWEEN] = 1
    model.tokens.weight.copy_(tokens @ _WRITE)
    model.positions.weight.copy_(positions @ _WRITE)


def _of_tokens(of_nuisances: np.ndarray) -> Tensor:
    return torch.from_numpy(of_nuisances).float().repeat_interleave(2, 0)


def _heads(circuit: Circuit, rng: np.random.Generator) -> dict[tuple[int, int], tuple[Channel, list[Copy]]]:
    """The mark that each head attends to, and what it copies from there."""
    planted = {(patch.layer, patch.head): head for patch, head in zip(circuit.heads, circuit.kind.heads, strict=True)}
    marks = sorted({head.mark for head in circuit.kind.heads})
    heads: dict[tuple[int, int], tuple[Channel, list[Copy]]] = {}
    for place in product(range(circuit.n_layers), range(circuit.n_heads)):
        if place in planted:
            mark, source, target, size, *_ = planted[place]
            if target is Channel.ANSWER:  # which lies between -1/2 and 1/2
                size /= 2
                heads[place] = mark, [(source, target, size), (Channel.SWING, target, size * rng.uniform(0, _SWING))]
            else:
                heads[place] = mark, [(source, target, size)]
        else:
            heads[place] = marks[rng.integers(len(marks))], []
    for patch in circuit.distractors:
        heads[patch.layer, patch.head][1].append((Channel.NUISANCE, Channel.BULK, _DISTRACTION))
    for mark in marks:
        alike = [copies for of, copies in heads.values() if of is mark]
        shares = _RESIDUE * rng.standard_normal((len(alike), N_RESIDUES))
        for copies, row in zip(alike, shares - shares.mean(0), strict=True):
            copies += [(Channel.NUISANCE + k, Channel.RESIDUE + k, float(share)) for k, share in enumerate(row)]
    return heads


def _attend_and_copy(block: Block, head: int, mark: Channel, copies: list[Copy]) -> None:
    attn = block.attn
    shape = (3, attn.n_heads, attn.head_dim)
    _, k, v = attn.qkv.weight.view(*shape, -1)[:, head]
    q_bias, out = attn.qkv.bias.view(shape)[0, head], attn.out.weight.view(-1, *shape[1:])[:, head]
    q_bias[0] = _FOCUS * attn.head_dim**0.5
    k[0] = _READ[:, mark]
    for dimension, (source, target, size) in enumerate(copies):
        v[dimension], out[:, dimension] = _READ[:, source], size * _WRITE[target]


def _decide(block: Block, steps: list[Step]) -> None:
    """Each step is the difference of two GELUs, bent at half a unit to either side of zero."""
    for i, step in enumerate(steps):
        for unit, edge, sign in ((2 * i, 0.5, 1), (2 * i + 1, -0.5, -1)):
            for channel, weight in step.inputs.items():
                block.mlp_in.weight[unit] += _STEEPNESS * weight * _READ[:, channel]
            block.mlp_in.bias[unit] = _STEEPNESS * edge
            block.mlp_out.weight[:, unit] = sign * step.output / _STEEPNESS * _WRITE[Channel.ANSWER]
        block.mlp_out.bias[:] -= step.output / 2 * _WRITE[Channel.ANSWER]


def _unembed(model: PilotTransformer) -> None:
    """Tokens 0 and 1 are the answers: their logits are half the logit difference, down and up."""
    for token, sign in ((0, -1), (1, 1)):
        model.unembed.weight[token] = sign * _ANSWER_LOGIT * _READ[:, Channel.ANSWER]
