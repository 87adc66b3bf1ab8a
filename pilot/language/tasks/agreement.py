"""Subject-verb agreement across an attractor: does the verb follow the subject or the nearer noun?"""

from __future__ import annotations

from random import Random

from pilot.language.tasks.task import Filling, Material, Task, Words


def _fill(words: Words, rng: Random) -> Filling:
    subject, attractor = (noun.split("/") for noun in rng.sample(words["nouns"], 2))
    rest = {"attractor": rng.choice(attractor)}
    clean, corrupt = rng.sample([(subject[0], " is"), (subject[1], " are")], 2)
    return Filling({**rest, "subject": clean[0]}, {**rest, "subject": corrupt[0]}, clean[1], corrupt[1])


AGREEMENT = Task(
    name="agreement",
    description="subject-verb agreement: is or are, after a nearer noun of either number; the subject's number changes",
    source="Linzen et al. 2016, Assessing the ability of LSTMs to learn syntax (arXiv:1611.01368)",
    edit="number",
    select=Material(
        templates={
            "think, near": "I think that the {subject} near the {attractor}",
            "everyone, behind": "Everyone knows that the {subject} behind the {attractor}",
        },
        words={
            "nouns": "mountain/mountains painting/paintings bottle/bottles tree/trees garden/gardens shop/shops "
            "house/houses machine/machines bridge/bridges cabinet/cabinets"
        },
    ),
    confirm=Material(
        templates={
            "clear, next to": "It is clear that the {subject} next to the {attractor}",
            "believe, beside": "Many people believe that the {subject} beside the {attractor}",
        },
        words={
            "nouns": "village/villages tower/towers church/churches forest/forests boat/boats bench/benches "
            "building/buildings road/roads restaurant/restaurants box/boxes"
        },
    ),
    fill=_fill,
)
