"""Indirect object identification: who was given something?"""

from __future__ import annotations

from random import Random

from pilot.language.tasks.task import Filling, Material, Task, Words


def _fill(words: Words, rng: Random) -> Filling:
    first, second = rng.sample(words["names"], 2)
    rest = {"first": first, "second": second, "place": rng.choice(words["places"]), "gift": rng.choice(words["gifts"])}
    answer, giver = rng.choice([(first, second), (second, first)])
    return Filling({**rest, "giver": giver}, {**rest, "giver": answer}, f" {answer}", f" {giver}")


IOI = Task(
    name="ioi",
    description="indirect object identification: of two names one gives, the answer is the other; the giver is swapped",
    source="Wang et al. 2022, Interpretability in the wild (arXiv:2211.00593)",
    edit="giver",
    select=Material(
        templates={
            "when, gave": "When {first} and {second} went to the {place}, {giver} gave a {gift} to",
            "after, handed": "After {first} and {second} met at the {place}, {giver} handed a {gift} to",
        },
        words={
            "names": "Mary John James Robert Michael David Sarah Emma Anna Peter Paul Mark Lisa Laura Kate Jack",
            "places": "store park school office station restaurant",
            "gifts": "book drink ring letter ball key",
        },
    ),
    confirm=Material(
        templates={
            "while, passed": "While {first} and {second} were working in the {place}, {giver} passed a {gift} to",
            "then, offered": "Then {first} and {second} had lunch in the {place}, and {giver} offered a {gift} to",
        },
        words={
            "names": "William Thomas Daniel Matthew George Henry Alice Jane Elizabeth Helen Susan Tom Alex Ben Sam Max",
            "places": "garden library kitchen hospital museum house",
            "gifts": "pen phone cake box map flower",
        },
    ),
    fill=_fill,
)
