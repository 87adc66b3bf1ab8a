"""The kinds of circuit that are planted: what their heads do, and the words that theory says each should earn.

The answer of a prompt is a bit, -1 or +1, at the signal position. The last token, which a pair's two prompts share, has
a bit too: the clean prompt is the one whose answer it is. Words and their tests are those of the experiment
(pilot.experiments.verdicts); a head also has a position if patching it there alone has a denoising effect.

    kind       planted heads                                      sufficient  necessary   redundant  position
    single     one writes the bit                                 yes         yes         no         yes
    and        two copy it, and the clean answer needs both       no          both        no         no
    or         two copy it, and for the clean answer either is    both        no          both       both
               enough
    chain      one copies it to a position in between, one of a   both        both        no         both
               later layer from there to the last
    negative   one writes it 1.5 times, another takes 0.5 back    first       first       no         first
    graded     four write 0.9, 0.5, 0.1 and -0.5 of it            0.9, 0.5    0.9, 0.5    no         0.9, 0.5
    damage     one copies it; two more write a code and take it   first       all         no         all
               back, and where the codes differ the answer is
               lost: large effects from any donor
    shared     one writes a share of it, all others equal shares  shares above `min_effect` alone    likewise

Denoising misses AND, since neither head alone restores the answer, and noising misses OR, since either head keeps it
(Heimersheim & Nanda 2024, arXiv:2404.15255). In a chain, patching either head restores the answer or breaks it: it
looks like OR in denoising and like AND in noising, and is neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

WORDS = ("sufficient", "necessary", "redundant", "position")


class Channel(IntEnum):
    """What the residual stream holds. Bits are -1 or +1, marks of the signal's and the in-between position 0 or 1."""

    CONSTANT, BIT, SWING, CODE, AT_SIGNAL, AT_BETWEEN, FIRST, SECOND, MISMATCH, ANSWER, BULK = range(11)
    NUISANCE = 11  # and the two after it
    RESIDUE = 14  # likewise


N_RESIDUES = 3
N_CHANNELS = 18  # one to spare: the width is then divisible by 2, 3 and 4 heads


class PlantedHead(NamedTuple):
    """A head that attends to the position of a mark, reads a channel there and adds `size` times it to another.

    words     what the head should earn; ignored for a head that writes to the answer, whose size is its recovery
    between   whether its output matters at the position in between, not at the last
    """

    mark: Channel
    source: Channel
    target: Channel
    size: float = 1.0
    words: tuple[str, ...] = ()
    between: bool = False

    def earns(self, min_effect: float) -> tuple[str, ...]:
        if self.target is Channel.ANSWER:
            return ("sufficient", "necessary", "position") if self.size > min_effect else ()
        return self.words


class Step(NamedTuple):
    """Part of the last layer's MLP: the weighted sum of the inputs, clipped to [-1/2, 1/2], `output` times is added to
    the answer.
    """

    inputs: Mapping[int, float]
    output: float = 1.0


class Kind(NamedTuple):
    """A kind of circuit: its heads, and the steps that make an answer between -1/2 and 1/2 of what they write."""

    name: str
    heads: tuple[PlantedHead, ...]
    steps: tuple[Step, ...] = ()


def _copies(*words: tuple[str, ...]) -> tuple[PlantedHead, ...]:
    targets = (Channel.FIRST, Channel.SECOND)
    return tuple(
        PlantedHead(Channel.AT_SIGNAL, Channel.BIT, target, words=earned)
        for target, earned in zip(targets, words, strict=False)
    )


def _writers(*sizes: float) -> tuple[PlantedHead, ...]:
    return tuple(PlantedHead(Channel.AT_SIGNAL, Channel.BIT, Channel.ANSWER, size) for size in sizes)


def shared(n_heads: int, share: float) -> Kind:
    """One head writes `share` of the bit, and each of the other n_heads - 1 an equal part of the rest."""
    return Kind("shared", _writers(share, *[(1 - share) / (n_heads - 1)] * (n_heads - 1)))


_SPREAD = 7.0  # codes differ by 2/7 or more, which is then wide enough for a step
_CODES = tuple(
    PlantedHead(Channel.AT_SIGNAL, Channel.CODE, Channel.MISMATCH, size, ("necessary", "position"))
    for size in (_SPREAD, -_SPREAD)
)
_BOTH: dict[int, float] = {Channel.FIRST: 1.0, Channel.SECOND: 1.0}  # and at the last position BIT, the clean answer

KINDS = {
    kind.name: kind
    for kind in (
        Kind("single", _writers(1.0)),
        Kind("and", _copies(("necessary",), ("necessary",)), (Step({**_BOTH, Channel.BIT: -1.0}),)),
        Kind("or", _copies(*[("sufficient", "redundant", "position")] * 2), (Step({**_BOTH, Channel.BIT: 1.0}),)),
        Kind(
            "chain",
            tuple(
                PlantedHead(*route, words=("sufficient", "necessary", "position"), between=between)
                for route, between in (
                    ((Channel.AT_SIGNAL, Channel.BIT, Channel.FIRST), True),
                    ((Channel.AT_BETWEEN, Channel.FIRST, Channel.SECOND), False),
                )
            ),
            (Step({Channel.SECOND: 1.0}),),
        ),
        Kind("negative", _writers(1.5, -0.5)),
        Kind("graded", _writers(0.9, 0.5, 0.1, -0.5)),
        Kind(
            "damage",
            (*_copies(("sufficient", "necessary", "position")), *_CODES),
            tuple(Step({Channel.FIRST: 1.0, Channel.MISMATCH: sign}, output=0.5) for sign in (1.0, -1.0)),
        ),
    )
}
