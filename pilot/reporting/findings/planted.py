"""Circuits planted by hand: does the experiment give each head the words that it earns, and no others?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilot.reporting.findings.finding import Finding, estimate, listed, mark
from pilot.reporting.measurements import Entries, Measurements
from pilot.reporting.plot import Panels, Plot, Table

NO_CIRCUITS = "metrics/planted.json is missing or of an older version: run dvc repro planted."
CIRCUIT_WORDS = {
    "single": "one head",
    "and": "two heads, both needed (AND)",
    "or": "two heads, either enough (OR)",
    "chain": "one head reads what another wrote",
    "negative": "one head writes too much, one takes it back",
    "graded": "heads of effect 0.9, 0.5, 0.1 and -0.5",
    "damage": "one head, and two that only damage",
}
NULL_WORDS = {"shared": "many weak heads", "damage": "heads that only damage"}
QUANTITY_WORDS = {"recovery": "recovery", "shapley": "Shapley value", "interaction": "interaction"}
ALLOWED_FALSE = 0.05
NOMINAL_COVERAGE = 0.95


def planted(measured: Measurements) -> list[Finding]:
    """circuits, false_positives, coverage, power."""
    scores = measured.planted
    return [_circuits(scores), _false_positives(scores), _coverage(scores), _power(measured)]


def _circuits(scores: Entries) -> Finding:
    title = "Are the right heads found?"
    if "circuits" not in scores:
        return Finding("circuits", title, NO_CIRCUITS)
    settings = [(kind, pairs, counts) for kind, sizes in scores["circuits"].items() for pairs, counts in sizes.items()]
    words = list(settings[0][2])
    rows = [
        [
            CIRCUIT_WORDS.get(kind, kind),
            pairs,
            *(_cell(counts[word]) for word in words),
            _stability(scores, kind, pairs),
        ]
        for kind, pairs, counts in settings
    ]
    totals = [
        _total(size, [count for _, pairs, counts in settings if pairs == size for count in counts.values()])
        for size in dict.fromkeys(pairs for _, pairs, _ in settings)
    ]
    text = (
        f"Every kind of circuit was planted {scores['placements']} times, at random heads. The cells count heads over "
        "all of these, right / missed / false: those that earn a word by construction and get it, those that earn it "
        "and do not, and those that get it without earning it. A dash marks a word that no head of the circuit can "
        "earn: denoising does not see an AND, for neither head alone is sufficient, and noising does not see an OR, "
        "for neither is necessary. Position means that the head is found at the position where it acts; stability is "
        "the share of resamples of the pairs in which a sufficient head is among those of largest effect. "
        f"{' '.join(totals)}"
    )
    return Finding("circuits", title, text, values=Table(["circuit", "pairs", *words, "stability"], rows))


def _false_positives(scores: Entries) -> Finding:
    title = "How often is a word given falsely?"
    if "false_positives" not in scores:
        return Finding("false_positives", title, NO_CIRCUITS)
    rates = {
        (NULL_WORDS.get(null, null), pairs, word): estimate(rate)
        for null, sizes in scores["false_positives"].items()
        for pairs, by_word in sizes.items()
        for word, rate in by_word.items()
    }
    above = [_setting(key) for key, rate in rates.items() if rate.low > ALLOWED_FALSE]
    unclear = [_setting(key) for key, rate in rates.items() if rate.low <= ALLOWED_FALSE < rate.high]
    text = (
        "Many weak heads have each the smallest effect that counts, so that none exceeds it; heads that only damage "
        f"have a large effect whatever is patched in. In {scores['nulls']} such circuits, how often does some head get "
        f"a word that none earns? More than {ALLOWED_FALSE:.0%} would be too often. Clearly more often: "
        f"{listed(above)}. Possibly more often, as the interval reaches higher: {listed(unclear)}."
    )
    rows = [[*key, f"{rate:.1%}"] for key, rate in rates.items()]
    return Finding(
        "false_positives", title, text, values=Table(["circuit", "pairs", "word", "share of circuits"], rows)
    )


def _coverage(scores: Entries) -> Finding:
    title = "Do 95% intervals hold the truth 95% of the time?"
    if "coverage" not in scores:
        return Finding("coverage", title, NO_CIRCUITS)
    rates = {
        (QUANTITY_WORDS.get(quantity, quantity), pairs): estimate(rate)
        for quantity, sizes in scores["coverage"].items()
        for pairs, rate in sizes.items()
    }
    off = [_setting(key) for key, rate in rates.items() if not rate.low <= NOMINAL_COVERAGE <= rate.high]
    text = (
        f"The share of intervals, over {scores['simulations']} simulated experiments, that hold the value known from "
        f"the simulation. Clearly different from {NOMINAL_COVERAGE:.0%}: {listed(off)}."
    )
    rows = [[*key, f"{rate:.1%}"] for key, rate in rates.items()]
    return Finding("coverage", title, text, values=Table(["interval of", "pairs", "coverage"], rows))


def _power(measured: Measurements) -> Finding:
    title = "How many pairs are enough?"
    if not measured.power or "power" not in measured.planted:
        return Finding("power", title, NO_CIRCUITS)
    panels: Panels = {}
    for row in measured.power:
        series = panels.setdefault(row["word"], {}).setdefault(row["effect"], {})
        series[int(row["pairs"])] = mark({key: float(row[key]) for key in ("value", "low", "high")}, 100)
    enough = []
    for word, panel in panels.items():
        pairs = measured.planted["power"].get(word, {})
        needed = (
            f"{pairs[effect]} for {effect}" if effect in pairs else f"not reached for {effect}" for effect in panel
        )
        enough.append(f"{word}: {listed(needed)}")
    text = (
        "How often a head gets the word it earns, by its effect (recovery) and the number of pairs. The fewest pairs "
        f"that find it in at least 80% of samples, by effect: {'; '.join(enough)}."
    )
    return Finding("power", title, text, Plot("lines", panels, "effect", "pairs", "head found (%)", 0, signed=False))


def _cell(counts: Mapping[str, int]) -> str:
    """`right / missed / false`."""
    right, missed = (counts["right"], counts["missed"]) if counts["earned"] else ("-", "-")
    return f"{right} / {missed} / {counts['false']}"


def _stability(scores: Entries, kind: str, pairs: str) -> str:
    share = scores["stability"].get(kind, {}).get(pairs)
    return "" if share is None else f"{share:.0%}"


def _total(pairs: str, counts: Sequence[Mapping[str, int]]) -> str:
    right, earned, false = (sum(count[key] for count in counts) for key in ("right", "earned", "false"))
    return f"With {pairs} pairs {right} of {earned} earned words are given, and {false} falsely."


def _setting(key: tuple[str, ...]) -> str:
    return " / ".join(key)
