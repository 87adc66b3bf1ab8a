"""Planted circuits: which heads carry the answer and where, and pairs of prompts that tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from pilot.errors import PilotError
from pilot.experiments.planted.kinds import N_CHANNELS, N_RESIDUES, Channel, Kind
from pilot.inputs.pairs import TokenPair
from pilot.inputs.prompts import Prompt
from pilot.interventions import HeadPatch, Intervention, check_intervention
from pilot.models.transformer import ModelConfig

SEQ_LEN = 8
READ = SEQ_LEN - 1  # where the answer is read
N_NUISANCES = 64  # token 2n + b shows nuisance n and bit b; as answers tokens 0 and 1 mean the bit
MOST_STEPS = 2 + N_RESIDUES


@dataclass(frozen=True)
class Circuit:
    """A kind of circuit in its place.

    heads         the planted heads, each at the one position where its output matters, in the order of the kind
    distractors   heads with large outputs that do not matter
    signal        the position of the bit

    Raises PilotError for heads that do not exist or do not make a circuit of this kind.
    """

    kind: Kind
    n_layers: int
    n_heads: int
    heads: Intervention
    distractors: Intervention
    signal: int

    def __post_init__(self) -> None:
        check_intervention((*self.heads, *self.distractors), self.config, SEQ_LEN)
        places = [(patch.layer, patch.head) for patch in (*self.heads, *self.distractors)]
        if len(set(places)) != len(places):
            raise PilotError(f"a planted {self.kind.name!r} circuit names a head twice")
        if len(self.heads) != len(self.kind.heads):
            raise PilotError(
                f"a planted {self.kind.name!r} circuit has {len(self.kind.heads)} heads, not {len(self.heads)}"
            )
        if not self._signal_arrives():
            raise PilotError(
                f"a planted {self.kind.name!r} circuit cannot bring the bit from position {self.signal} to {READ} by "
                f"{', '.join(patch.name for patch in self.heads)}"
            )

    def _signal_arrives(self) -> bool:
        for patch, head in zip(self.heads, self.kind.heads, strict=True):
            from_signal = head.mark is Channel.AT_SIGNAL
            layer, seen = (-1, self.signal) if from_signal else (self.heads[0].layer, self.heads[0].start)
            if not (layer < patch.layer and 0 <= seen < patch.start and patch.stop == patch.start + 1):
                return False
            if not head.between and patch.start != READ:
                return False
        return True

    @property
    def config(self) -> ModelConfig:
        """Raises PilotError for a number of heads that the channels cannot be shared among."""
        return ModelConfig(self.n_layers, self.n_heads, 2 * N_CHANNELS, 2 * MOST_STEPS, SEQ_LEN, 2 * N_NUISANCES)

    def earned(self, word: str, min_effect: float) -> Intervention:
        """The heads that should be called so, each at its position, where recovery must exceed `min_effect`."""
        heads = zip(self.heads, self.kind.heads, strict=True)
        return tuple(patch for patch, head in heads if word in head.earns(min_effect))


def random_circuit(kind: Kind, n_layers: int, n_heads: int, rng: np.random.Generator) -> Circuit:
    """A circuit at random heads and positions; half of the other heads are distractors.

    Raises PilotError for a kind that a model of this size has no room for.
    """
    every = [HeadPatch(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    order = [every[i] for i in rng.permutation(len(every))]
    planted = next(_placements(kind, order), None)
    if planted is None:
        raise PilotError(f"a planted {kind.name!r} circuit has no room in {n_layers} layers of {n_heads} heads")
    others = [head for head in order if head not in planted]
    signal, between = (int(position) for position in np.sort(rng.choice(READ, size=2, replace=False)))
    positions = [between if head.between else READ for head in kind.heads]
    return Circuit(
        kind,
        n_layers,
        n_heads,
        heads=tuple(patch._replace(start=t, stop=t + 1) for patch, t in zip(planted, positions, strict=True)),
        distractors=tuple(others[: len(others) // 2]),
        signal=signal,
    )


def _placements(kind: Kind, heads: list[HeadPatch]) -> Iterator[Intervention]:
    """The heads in every order that fits: one that reads what another wrote is of a later layer."""
    composed = [head.mark is Channel.AT_BETWEEN for head in kind.heads]
    for chosen in permutations(heads, len(kind.heads)):
        if all(patch.layer > chosen[0].layer for patch, later in zip(chosen, composed, strict=True) if later):
            yield chosen


def draw_pairs(circuit: Circuit, n_pairs: int, rng: np.random.Generator) -> list[TokenPair]:
    """Pairs of random prompts that have the same last token and differ in the bit at the signal position.

    The clean one has the bit of the last token; half of the pairs have either. The rest of the two prompts differs at
    random, the nuisance of the signal's token included.
    """
    clean_bit = np.arange(n_pairs) % 2
    tokens = rng.integers(2 * N_NUISANCES, size=(2, n_pairs, SEQ_LEN))
    tokens[:, :, circuit.signal] = tokens[:, :, circuit.signal] // 2 * 2 + np.stack([clean_bit, 1 - clean_bit])
    tokens[:, :, READ] = tokens[0, :, READ] // 2 * 2 + clean_bit
    clean, corrupt = ([Prompt(tuple(ids), (ids[circuit.signal] % 2,)) for ids in side] for side in tokens.tolist())
    return [TokenPair(*sides, circuit.kind.name) for sides in zip(clean, corrupt, strict=True)]
