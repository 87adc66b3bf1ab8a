"""Circuits planted by hand: does the experiment give each head the words that it earns, and no others?"""

from __future__ import annotations

from collections.abc import Iterator

from pilot.reporting.findings.finding import Finding, estimate, listed
from pilot.reporting.measurements import Entries, Measurements
from pilot.reporting.plot import Mark, Panels, Plot, Table

NO_CIRCUITS = "metrics/planted.json is missing or of an older version: run dvc repro planted."
ALLOWED_FALSE = 0.05
NOMINAL_COVERAGE = 0.95
ENOUGH_POWER = 0.8
COUNTS = ("right", "missed", "false")


def planted(measured: Measurements) -> list[Finding]:
    """circuits, false_positives, coverage, power."""
    return [
        _circuits(measured.planted),
        _false_positives(measured.planted),
        _coverage(measured.planted),
        _power(measured),
    ]


def _circuits(scores: Entries) -> Finding:
    title = "Are the right heads found?"
    if "circuits" not in scores:
        return Finding("circuits", title, NO_CIRCUITS)
    rows, errors = [], []
    for circuit, by_pairs in scores["circuits"].items():
        for pairs, words in by_pairs.items():
            rows.append([circuit, pairs, *(str(counts[key]) for counts in words.values() for key in COUNTS)])
            errors += [
                f"{circuit} with {pairs} pairs ({word}: {counts['missed']} missed, {counts['false']} false)"
                for word, counts in words.items()
                if counts["missed"] or counts["false"]
            ]
    text = (
        f"Every circuit was planted {scores['placements']} times, at random heads. The table counts heads over all "
        "placements: those that earn a word by the circuit's construction and get it, those that earn it and do not "
        f"get it, and those that get it and do not earn it. Errors: {'; '.join(errors) or 'none'}."
    )
    header = ["circuit", "pairs", *(f"{word}: {key}" for word in words for key in COUNTS)]
    return Finding("circuits", title, text, values=Table(header, rows))


def _false_positives(scores: Entries) -> Finding:
    title = "How often is a word given where no head matters?"
    if "false_positives" not in scores:
        return Finding("false_positives", title, NO_CIRCUITS)
    rates = {key: estimate(rate) for key, rate in _by_pairs_and_word(scores["false_positives"])}
    above = [_setting(key) for key, rate in rates.items() if rate.low > ALLOWED_FALSE]
    unclear = [_setting(key) for key, rate in rates.items() if rate.low <= ALLOWED_FALSE < rate.high]
    text = (
        f"The share of {scores['nulls']} models without a circuit in which some head gets the word. At most "
        f"{ALLOWED_FALSE:.0%} are allowed. Above that: {listed(above)}. Not clearly below it: {listed(unclear)}."
    )
    rows = [[word, pairs, f"{rate:.1%}"] for (pairs, word), rate in rates.items()]
    return Finding("false_positives", title, text, values=Table(["word", "pairs", "false positives"], rows))


def _coverage(scores: Entries) -> Finding:
    title = "Do 95% intervals hold the truth 95% of the time?"
    if "coverage" not in scores:
        return Finding("coverage", title, NO_CIRCUITS)
    rates = {key: estimate(rate) for key, rate in _by_pairs_and_word(scores["coverage"])}
    missing = [_setting(key) for key, rate in rates.items() if not rate.low <= NOMINAL_COVERAGE <= rate.high]
    text = (
        f"The share of {scores['simulations']} simulated experiments whose interval holds the value known from the "
        f"simulation. Clearly different from {NOMINAL_COVERAGE:.0%}: {listed(missing)}."
    )
    rows = [[quantity, pairs, f"{rate:.1%}"] for (quantity, pairs), rate in rates.items()]
    return Finding("coverage", title, text, values=Table(["interval of", "pairs", "coverage"], rows))


def _power(measured: Measurements) -> Finding:
    title = "How many pairs are enough?"
    if not measured.power:
        return Finding("power", title, NO_CIRCUITS.replace("planted.json", "planted_power.csv"))
    panels: Panels = {}
    for row in measured.power:
        series = panels.setdefault(row["word"], {}).setdefault(f"effect {row['effect']}", {})
        series[int(row["pairs"])] = Mark(*(100 * float(row[key]) for key in ("value", "low", "high")))
    enough = []
    for word, panel in panels.items():
        for effect, series in panel.items():
            pairs = next((n for n, sensitivity in series.items() if sensitivity.value >= 100 * ENOUGH_POWER), None)
            enough.append(f"{word}, {effect}: {'more than measured' if pairs is None else pairs}")
    text = (
        "The share of planted heads that get the word they earn, by the size of their effect (recovery) and the number "
        f"of pairs. The fewest pairs that find {ENOUGH_POWER:.0%} of them: {'; '.join(enough)}."
    )
    return Finding("power", title, text, Plot("lines", panels, "effect", "pairs", "heads found (%)", 0, signed=False))


def _by_pairs_and_word(nested: Entries) -> Iterator[tuple[tuple[str, str], Entries]]:
    for outer, rates in nested.items():
        for inner, rate in rates.items():
            yield (outer, inner), rate


def _setting(key: tuple[str, str]) -> str:
    return f"{key[0]} / {key[1]}"
