"""Which planted circuits each approximation of patching does not see."""

from __future__ import annotations

from collections.abc import Mapping

from pilot.reporting.findings.attribution import EXACT, NO_ATTRIBUTION, called
from pilot.reporting.findings.finding import Finding, listed
from pilot.reporting.findings.planted import CIRCUIT_WORDS
from pilot.reporting.measurements import Measurements
from pilot.reporting.plot import Table

CIRCUITS = CIRCUIT_WORDS | {"saturated": "one head attends by what another wrote"}


def blindness(measured: Measurements) -> Finding:
    title, scores = "What is each method blind to?", measured.attribution
    if "planted" not in scores:
        return Finding("attribution_planted", title, NO_ATTRIBUTION)
    settings = [(kind, way, found) for kind, ways in scores["planted"].items() for way, found in ways.items()]
    methods = [name for name in settings[0][2] if name != EXACT]
    rows = [
        [CIRCUITS.get(kind, kind), way, *(_verdict(found[name]) for name in methods)] for kind, way, found in settings
    ]
    blind = {name: [f"{kind} by {way}" for kind, way, found in settings if _is_blind(found[name])] for name in methods}
    without = [called(name) for name, circuits in blind.items() if not circuits]
    text = (
        "On planted circuits, without noise: does a method see the heads that have an effect by exact patching? Yes: "
        "all of them, no: none. Beside it: how many of how many, and heads that it sees falsely. Blind to no "
        f"circuit: {listed(without)}. Blind to some: "
        f"{'; '.join(f'{called(name)} ({listed(each)})' for name, each in blind.items() if each) or 'none'}. "
        "A dash marks a circuit in which no head has an effect alone, as in the denoising of an AND: single heads, "
        "however exactly patched, do not show it."
    )
    header = ["circuit", "direction", *map(called, methods)]
    return Finding("attribution_planted", title, text, values=Table(header, rows))


def _is_blind(counts: Mapping[str, int]) -> bool:
    return counts["effective"] > 0 and not counts["seen"]


def _verdict(counts: Mapping[str, int]) -> str:
    """`yes 20/20`, `no 0/20, 3 false`, `-`."""
    seen, effective = counts["seen"], counts["effective"]
    word = "yes" if seen == effective else "partly" if seen else "no"
    text = f"{word} {seen}/{effective}" if effective else "-"
    return text + (f", {counts['false']} false" if counts["false"] else "")
