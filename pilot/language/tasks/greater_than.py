"""Greater-than: a year that comes after another one, digit by digit.

The first year ends in 9, so the next one's third digit has to be larger. The pair's two first years lie in different
decades, and each answer is the decade that follows: the smaller answer is impossible after the later first year.
"""

from __future__ import annotations

from random import Random

from pilot.language.tasks.task import Filling, Material, Task, Words


def _fill(words: Words, rng: Random) -> Filling:
    rest = {"event": rng.choice(words["events"]), "century": rng.choice(words["centuries"])}
    clean, corrupt = rng.sample(range(1, 9), 2)
    return Filling({**rest, "decade": str(clean)}, {**rest, "decade": str(corrupt)}, str(clean + 1), str(corrupt + 1))


GREATER_THAN = Task(
    name="greater-than",
    description="greater-than: the decade in which an event ended that began in a year ending in 9; the year changes",
    source="Hanna et al. 2023, How does GPT-2 compute greater-than? (arXiv:2305.00586)",
    edit="year",
    select=Material(
        templates={
            "lasted": "The {event} lasted from the year {century}{decade}9 to the year {century}",
            "took place": "The {event} took place between {century}{decade}9 and {century}",
        },
        words={"events": "war siege project voyage strike conflict trial famine", "centuries": "12 14 16 18"},
    ),
    confirm=Material(
        templates={
            "began": "The {event} began in {century}{decade}9 and ended in {century}",
            "opened": "The {event} opened in {century}{decade}9 and closed in {century}",
        },
        words={"events": "festival campaign study expedition fair school theater reign", "centuries": "11 13 15 17"},
    ),
    fill=_fill,
)
