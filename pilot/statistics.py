"""Intervals for rates, means and their differences. All are 95 % unless `level` says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def clustered_rate(successes: np.ndarray, cluster: np.ndarray, level: float = 0.95) -> Estimate:
    """A rate over trials that come in related groups, with a Wilson interval at the effective number of trials.

    successes   (N,) bool
    cluster     (N,) which group each trial belongs to; trials of one group may depend on each other

    The effective number is what independent trials would need for the same variance (Korn & Graubard 1998,
    Survey Methodology 24), never more than N, and the number of groups where no variance shows (all or none
    succeed). With groups of one this is the plain Wilson interval. Raises ValueError without trials.
    """
    if len(successes) == 0:
        raise ValueError("a rate needs at least one trial")
    successes = np.asarray(successes, dtype=float)
    _, group = np.unique(cluster, return_inverse=True)
    n, n_groups, rate = len(successes), group.max() + 1, successes.mean()
    residuals = np.bincount(group, weights=successes - rate)
    variance = (residuals**2).sum() * n_groups / max(n_groups - 1, 1) / n**2
    effective = min(n, rate * (1 - rate) / variance) if variance > 0 else n_groups
    return Estimate(rate, *_wilson(rate, effective, level))


def _wilson(rate: float, n: float, level: float) -> tuple[float, float]:
    # scipy's binomtest has this for whole counts only.
    z = stats.norm.ppf((1 + level) / 2)
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def bootstrap_mean(values: np.ndarray, resamples: int, rng: np.random.Generator, level: float = 0.95) -> Estimate:
    """The mean of values (N,) with a percentile bootstrap interval over them."""
    return _percentiles(np.mean(values), _resampled_means(values, resamples, rng), level)


def bootstrap_difference(
    a: np.ndarray, b: np.ndarray, resamples: int, rng: np.random.Generator, level: float = 0.95
) -> Estimate:
    """mean(a) - mean(b) of two independent samples, (N,) and (M,), with a percentile bootstrap interval."""
    resampled = _resampled_means(a, resamples, rng) - _resampled_means(b, resamples, rng)
    return _percentiles(np.mean(a) - np.mean(b), resampled, level)


def _resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    # A resample is how often each distinct value is drawn: a multinomial, cheap for the few values of a
    # difference between right and wrong answers.
    distinct, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    return rng.multinomial(len(values), counts / counts.sum(), size=resamples) @ distinct / len(values)


def _percentiles(value: float, resampled: np.ndarray, level: float) -> Estimate:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high))
