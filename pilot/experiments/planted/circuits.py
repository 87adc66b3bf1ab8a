"""Planted circuits: models with weights set by hand, so that it is known which heads carry the answer.

A bit at the signal position is 1 in the clean run and 0 in the corrupt one, and the answer at the last position says
which. Kinds of circuit, after Heimersheim & Nanda 2024 (arXiv:2404.15255):

    single     one head copies the bit to the last position
    and        two heads copy it, and the answer needs both
    or         two heads copy it, and either is enough: each is the other's backup
    position   a head copies it to a position in between, and a head of a later layer from there to the last one
    none       the signal is at the last position: the MLP sees it there, and no head carries anything

Everything else is nuisance. The other tokens differ at random between the two runs, every head writes a mixture of
what it sees of them where only a small leak into the logits reads it, and distractor heads write ten times as much:
patched all together, they change a pair's logit difference by less than 5 % of what the planted heads do.

The residual stream holds channels, each a pair of coordinates (+x, -x): its mean is zero. One constant channel
dominates its norm, so LayerNorm multiplies by nearly the same number everywhere, which its gain undoes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch

from pilot.errors import PilotError
from pilot.interventions import HeadPatch, Intervention, check_intervention
from pilot.models.transformer import Block, ModelConfig, PilotTransformer

KINDS = ("single", "and", "or", "position")
SEQ_LEN = 8
READ = SEQ_LEN - 1  # where the answer is read
N_NUISANCES = 8
CORRUPT_ANSWER, CLEAN_ANSWER = 0, 1  # token 2n + b shows nuisance n and bit b; as answers these two mean the bit

# Channels: bits are -1 or +1, marks of the signal position and of the one in between are 0 or 1.
CONSTANT, BIT, AT_SIGNAL, AT_BETWEEN, FIRST, SECOND, ANSWER = range(7)
NUISANCE, LEAK = slice(7, 9), slice(9, 12)
N_CHANNELS = 12
_WRITE = torch.kron(torch.eye(N_CHANNELS), torch.tensor([1.0, -1.0]))  # residual stream = channels @ _WRITE
_READ = _WRITE.T / 2  # channels = residual stream @ _READ

_CONSTANT_SIZE = 1000.0
_FOCUS = 30.0  # how far the attention score of a planted head's target is above those of other positions
_STEEPNESS = 20.0  # of the MLP's step: its GELUs then work at a distance of 10 or more from zero
_ANSWER_LOGIT = 10.0  # the logit difference of a clean run, and minus that of a corrupt one
_LEAK_LOGIT = 0.003
_DISTRACTION = 10.0


class _Design(NamedTuple):
    """How a kind of circuit works.

    routes       for each head the mark of the position that it attends to, the channel it reads there and the one it
                 writes
    inputs       the channels, each -1 or +1, that the MLP of the last layer adds up
    threshold    what their sum must exceed for the answer of the clean run
    """

    routes: tuple[tuple[int, int, int], ...]
    inputs: list[int]
    threshold: int


_COPIES = ((AT_SIGNAL, BIT, FIRST), (AT_SIGNAL, BIT, SECOND))
_DESIGNS = {
    "single": _Design(_COPIES[:1], [FIRST], 0),
    "and": _Design(_COPIES, [FIRST, SECOND], 1),
    "or": _Design(_COPIES, [FIRST, SECOND], -1),
    "position": _Design(((AT_SIGNAL, BIT, FIRST), (AT_BETWEEN, FIRST, SECOND)), [SECOND], 0),
    "none": _Design((), [BIT], 0),
}


def _design_of(kind: str) -> _Design:
    if kind not in _DESIGNS:
        raise PilotError(f"there is no planted circuit {kind!r}, only {', '.join(_DESIGNS)}")
    return _DESIGNS[kind]


@dataclass(frozen=True)
class Circuit:
    """Which heads carry the answer, and where.

    kind          one of KINDS, or "none"
    heads         the planted heads, each at the one position where its output matters; for "position" the one in
                  between comes first
    distractors   heads with large outputs that do not matter
    signal        the position of the bit

    Raises PilotError for heads that do not exist or do not make a circuit of this kind.
    """

    kind: str
    n_layers: int
    n_heads: int
    heads: Intervention
    distractors: Intervention
    signal: int

    def __post_init__(self):
        check_intervention((*self.heads, *self.distractors), self.config, SEQ_LEN)
        places = [(patch.layer, patch.head) for patch in (*self.heads, *self.distractors)]
        if len(set(places)) != len(places):
            raise PilotError(f"a planted {self.kind!r} circuit names a head twice")
        if len(self.heads) != len(_design_of(self.kind).routes):
            raise PilotError(
                f"a planted {self.kind!r} circuit has {len(_design_of(self.kind).routes)} heads, not {len(self.heads)}"
            )
        if not self._signal_arrives():
            raise PilotError(
                f"a planted {self.kind!r} circuit cannot bring the bit from position {self.signal} to {READ} by "
                f"{', '.join(patch.name for patch in self.heads) or 'no head'}"
            )

    def _signal_arrives(self) -> bool:
        for patch, (mark, _, target) in zip(self.heads, _design_of(self.kind).routes, strict=True):
            layer, seen = (-1, self.signal) if mark == AT_SIGNAL else (self.heads[0].layer, self.heads[0].start)
            if not (layer < patch.layer and 0 <= seen < patch.start and patch.stop == patch.start + 1):
                return False
            if target in _design_of(self.kind).inputs and patch.start != READ:
                return False
        return bool(self.heads) or self.signal == READ

    @property
    def config(self) -> ModelConfig:
        """Raises PilotError for a number of heads that the channels cannot be shared among."""
        return ModelConfig(self.n_layers, self.n_heads, 2 * N_CHANNELS, 2, SEQ_LEN, 2 * N_NUISANCES)


@dataclass(frozen=True)
class TokenPairs:
    """clean, corrupt (P, T) int64 tokens; read (P, 1) int64, the position of the answer."""

    clean: torch.Tensor
    corrupt: torch.Tensor
    read: torch.Tensor


def random_circuit(kind: str, n_layers: int, n_heads: int, rng: np.random.Generator) -> Circuit:
    """A circuit at random heads and positions; half of the other heads are distractors.

    Raises PilotError for a kind that there is not or that a model of this size has no room for.
    """
    n_planted = len(_design_of(kind).routes)
    every = [HeadPatch(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    placements = [
        heads for heads in permutations(every, n_planted) if kind != "position" or heads[0].layer < heads[1].layer
    ]
    if not placements:
        raise PilotError(f"a planted {kind!r} circuit has no room in {n_layers} layers of {n_heads} heads")
    planted = placements[rng.integers(len(placements))]
    others = [head for head in every if head not in planted]
    signal, between = (int(position) for position in np.sort(rng.choice(READ, size=2, replace=False)))
    positions = (between, READ) if kind == "position" else (READ,) * len(planted)
    return Circuit(
        kind,
        n_layers,
        n_heads,
        heads=tuple(head._replace(start=t, stop=t + 1) for head, t in zip(planted, positions, strict=True)),
        distractors=tuple(others[i] for i in rng.permutation(len(others))[: len(others) // 2]),
        signal=signal if planted else READ,
    )


def draw_pairs(circuit: Circuit, n_pairs: int, rng: np.random.Generator) -> TokenPairs:
    """Pairs of independent random sequences that have the bit 1 (clean) and 0 (corrupt) at the signal position."""
    tokens = rng.integers(circuit.config.vocab_size, size=(2, n_pairs, SEQ_LEN))
    tokens[:, :, circuit.signal] = tokens[:, :, circuit.signal] // 2 * 2 + np.array([[1], [0]])
    clean, corrupt = torch.from_numpy(tokens)
    return TokenPairs(clean, corrupt, torch.full((n_pairs, 1), READ))


@torch.no_grad()
def plant(circuit: Circuit, rng: np.random.Generator) -> PilotTransformer:
    """The model, in eval mode. `rng` draws how nuisance is embedded, mixed by the heads and leaked to the logits."""
    model = PilotTransformer(circuit.config).eval()
    for parameter in model.parameters():
        parameter.zero_()
    for norm in (model.ln_final, *(norm for block in model.blocks for norm in (block.ln1, block.ln2))):
        norm.weight.fill_(_CONSTANT_SIZE / N_CHANNELS**0.5)
    _embed(model, circuit, rng)
    distractors = {(patch.layer, patch.head) for patch in circuit.distractors}
    for layer, block in enumerate(model.blocks):
        for head in range(circuit.n_heads):
            _mix_nuisance(block, head, _DISTRACTION if (layer, head) in distractors else 1.0, rng)
    for patch, (mark, source, target) in zip(circuit.heads, _design_of(circuit.kind).routes, strict=True):
        _copy(model.blocks[patch.layer], patch.head, mark, source, target)
    _decide(model.blocks[-1], _design_of(circuit.kind))
    _unembed(model, rng)
    return model


def _embed(model: PilotTransformer, circuit: Circuit, rng: np.random.Generator) -> None:
    tokens = torch.zeros(circuit.config.vocab_size, N_CHANNELS)
    tokens[:, CONSTANT] = _CONSTANT_SIZE
    tokens[:, BIT] = torch.tensor([-1.0, 1.0]).repeat(N_NUISANCES)
    nuisances = torch.nn.functional.normalize(_normal(rng, N_NUISANCES, 2))
    tokens[:, NUISANCE] = nuisances.repeat_interleave(2, 0)
    positions = torch.zeros(SEQ_LEN, N_CHANNELS)
    positions[circuit.signal, AT_SIGNAL] = 1
    if circuit.kind == "position":
        positions[circuit.heads[0].start, AT_BETWEEN] = 1
    model.tokens.weight.copy_(tokens @ _WRITE)
    model.positions.weight.copy_(positions @ _WRITE)


def _mix_nuisance(block: Block, head: int, size: float, rng: np.random.Generator) -> None:
    """All but the first dimension of a head: random attention among the nuisances, leaked."""
    qkv, _, out = _head_weights(block, head)
    qkv[:, 1:] = torch.einsum("ijc,cm->ijm", _normal(rng, 3, len(qkv[0]) - 1, 2), _READ.T[NUISANCE])
    out[:, 1:] = size * _WRITE[LEAK].T @ _normal(rng, 3, out.shape[1] - 1) / out.shape[1] ** 0.5


def _copy(block: Block, head: int, mark: int, source: int, target: int) -> None:
    """The first dimension of a head: attend to the marked position from everywhere, and copy a channel of it."""
    (_, k, v), q_bias, out = _head_weights(block, head)
    q_bias[0] = _FOCUS * len(q_bias) ** 0.5
    k[0], v[0], out[:, 0] = _READ[:, mark], _READ[:, source], _WRITE[target]


def _head_weights(block: Block, head: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views on one head's weights: qkv (3, head_dim, d_model), bias of q (head_dim,), W_O (d_model, head_dim)."""
    attn = block.attn
    shape = (3, attn.n_heads, attn.head_dim)
    qkv, bias = attn.qkv.weight.view(*shape, -1)[:, head], attn.qkv.bias.view(shape)[0, head]
    return qkv, bias, attn.out.weight.view(-1, *shape[1:])[:, head]


def _decide(block: Block, design: _Design) -> None:
    """ANSWER = +1/2 or -1/2 at every position, by a step that is the difference of two GELUs."""
    block.mlp_in.weight.copy_(_STEEPNESS * _READ[:, design.inputs].sum(1).expand(2, -1))
    block.mlp_in.bias.copy_(_STEEPNESS * (torch.tensor([0.5, -0.5]) - design.threshold))
    block.mlp_out.weight.copy_(torch.outer(_WRITE[ANSWER], torch.tensor([1.0, -1.0])) / _STEEPNESS)
    block.mlp_out.bias.copy_(-_WRITE[ANSWER] / 2)


def _unembed(model: PilotTransformer, rng: np.random.Generator) -> None:
    logits = torch.zeros(model.config.vocab_size, N_CHANNELS)
    logits[CLEAN_ANSWER, ANSWER], logits[CORRUPT_ANSWER, ANSWER] = _ANSWER_LOGIT, -_ANSWER_LOGIT
    logits[:, LEAK] = _LEAK_LOGIT * _normal(rng, len(logits), 3)
    model.unembed.weight.copy_(logits @ _READ.T)


def _normal(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape)).float()
