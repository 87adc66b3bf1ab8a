"""The answer in a few plain sentences, for the head of the page."""

from __future__ import annotations

from pilot.experiments.verdicts import WORDS
from pilot.reporting.findings.finding import leading, listed, mark
from pilot.reporting.findings.subsets import set_panels
from pilot.reporting.language.findings import SET_WORDS
from pilot.reporting.language.results import TaskResults
from pilot.reporting.plot import Mark

STABLE = 0.95  # of resamples
AGAINST = -0.05  # recovery; heads below it are named, the worst ones first
MOST_NAMED = 4


def headlines(results: TaskResults) -> list[str]:
    """Which heads, how surely, in which sets; what works against the answer; and what may be only so on these pairs."""
    return [_alone(results), _tested(results), *_sets(results), *_against(results), _caveat(results)]


def _alone(results: TaskResults) -> str:
    """The leading head by direction. The largest of many is no finding by itself, so that a failed test is said."""
    told = []
    for direction, rows in results.effects.items():
        effects = {name: mark(rows[name]["recovery"]) for name in results.heads}
        name = leading(effects)
        note = "" if name in results.holding(WORDS[direction]) else " (does not pass the test)"
        told.append(f"by {direction} {name}, {effects[name].text('.2f')}{note}")
    return f"The head that recovers most alone: {'; '.join(told)}."


def _tested(results: TaskResults) -> str:
    sufficient, necessary = results.holding("sufficient"), results.holding("necessary")
    if not sufficient and not necessary:
        return (
            f"No head passes the test, corrected for all {len(results.heads)} of them: none is shown to be sufficient "
            "or necessary alone. That does not prove that none is; more pairs may tell."
        )
    return f"Sufficient alone: {listed(sufficient, 'no head')}. Necessary: {listed(necessary, 'no head')}."


def _sets(results: TaskResults) -> list[str]:
    """By direction: the smallest best set that recovers half, against the heads of largest effect alone."""
    n = len(results.players)
    told = []
    for direction, panel in set_panels(results.best_sets, SET_WORDS).items():
        best, ranked = panel[SET_WORDS["best"]], panel[SET_WORDS["single"]]
        everything = f"all {n} players together recover {_number(best[n])}"
        half = next((size for size in range(1, n + 1) if best[size].value >= 0.5), None)
        if half is None:
            told.append(f"By {direction} no set of the {n} players recovers half of the difference; {everything}.")
            continue
        heads = listed(best[half].note.split("+"))
        recover = f"{heads}, which recovers" if half == 1 else f"{heads}, which together recover"
        if ranked[half].note != best[half].note:
            everything = f"the {half} of largest effect alone recover {ranked[half].value:.2f}, {everything}"
        told.append(
            f"By {direction} it takes {half} of the {n} players to recover half of the difference: {recover} "
            f"{_number(best[half])}; {everything}."
        )
    return told


def _against(results: TaskResults) -> list[str]:
    """Heads that move the answer the other way, where there are any."""
    told = []
    for direction, rows in results.effects.items():
        effects = {name: mark(rows[name]["recovery"]) for name in results.heads}
        clear = [name for name, effect in effects.items() if effect.value <= AGAINST and (effect.high or 0) < 0]
        worst = sorted(clear, key=lambda name: effects[name].value)[:MOST_NAMED]
        if worst:
            named = listed(f"{name} ({effects[name].value:+.2f})" for name in worst)
            told.append(f"by {direction} {named}")
    return [f"Heads that move the answer away from the donor's: {'; '.join(told)}."] if told else []


def _caveat(results: TaskResults) -> str:
    """What to be careful about: players that other pairs would not have led to, and what the numbers are of."""
    by_direction = results.counterfactual["stability"].values()
    stability = {name: max(by_head.get(name, 0.0) for by_head in by_direction) for name in results.players}
    shaky = [name for name in results.players if stability[name] < STABLE]
    others = (
        f"With other pairs of the same kind, {len(shaky)} of the {len(results.players)} players might not be among "
        f"them (stability below {STABLE:.0%}: {listed(shaky)}). "
        if shaky
        else ""
    )
    return (
        f"{others}All this is measured on {results.n_pairs} pairs of this kind, which had no part in the choice of the "
        "players, and holds for this checkpoint. Other wordings, words or models may differ."
    )


def _number(effect: Mark) -> str:
    """The value with its interval, without the note."""
    return effect._replace(note="").text(".2f")
