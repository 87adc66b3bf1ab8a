"""How far approximate effects of single heads are from exact ones.

Shapes: n heads, P pairs, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from scipy.stats import rankdata

from pilot.experiments.statistics import Estimates

EstimateRow = dict[str, float]  # {"value": ..., "low": ..., "high": ...}


def agreement(
    found: np.ndarray, exact: np.ndarray, gap: np.ndarray, top_k: int, min_effect: float, resamples: int, seed: int
) -> dict[str, EstimateRow]:
    """Scores of a method's LD changes against the exact ones, both (n, P), by recovery over all pairs.

    gap   (P,) LD donor - LD recipient

    error         root mean square error of recovery over the heads
    worst         the largest error of recovery of any head, without its sign
    pearson       correlation with the exact recoveries
    spearman      the same of ranks
    recall        share of the `top_k` heads of largest exact recovery, in size, that are the method's too
    sign_errors   of the heads that exactly recover more than `min_effect` in size, how many have the wrong sign

    Each has a 95 % percentile interval over bootstrap resamples of the pairs, in which both sides are measured anew.
    """
    counts = resampled_counts(len(gap), resamples, np.random.default_rng(seed))
    total = gap @ counts
    return with_intervals(_scores(found @ counts / total, exact @ counts / total, top_k, min_effect))


def resampled_counts(n_pairs: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each pair is drawn: (P, 1 + R), the pairs as they are and then the resamples."""
    counts = rng.multinomial(n_pairs, np.full(n_pairs, 1 / n_pairs), size=resamples).T
    return np.column_stack([np.ones(n_pairs), counts])


def with_intervals(scores: Mapping[str, np.ndarray]) -> dict[str, EstimateRow]:
    """Of scores measured on the columns of `resampled_counts`, (1 + R,) each: values and 95 % percentile intervals."""
    return {
        name: asdict(Estimates(values[0], *np.quantile(values[1:], [0.025, 0.975]))[()])
        for name, values in scores.items()
    }


def _scores(found: np.ndarray, exact: np.ndarray, top_k: int, min_effect: float) -> dict[str, np.ndarray]:
    """Of recoveries (n, 1 + R): (1 + R,) each."""
    error, large = found - exact, np.abs(exact) > min_effect
    top = (np.argsort(-np.abs(side), axis=0, kind="stable")[:top_k] for side in (found, exact))
    chosen, wanted = (np.any(heads[:, None] == np.arange(len(exact))[:, None], axis=0) for heads in top)
    return {
        "error": np.sqrt((error**2).mean(0)),
        "worst": np.abs(error).max(0),
        "pearson": _correlation(found, exact),
        "spearman": _correlation(rankdata(found, axis=0), rankdata(exact, axis=0)),
        "recall": (chosen & wanted).sum(0) / min(top_k, len(exact)),
        "sign_errors": (large & (np.sign(found) != np.sign(exact))).sum(0).astype(float),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each column; 0 where one side does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.asarray(np.divide((a * b).sum(0), scale, out=np.zeros_like(scale), where=scale > 0))
