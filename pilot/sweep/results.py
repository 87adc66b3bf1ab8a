"""Collects what a sweep measures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

Measure = Callable[[Tensor, Tensor], Tensor]


class Measurements:
    """Where measured values are put, (n_interventions, P, ...), as they stream out of a sweep, from any thread."""

    def __init__(self, n_interventions: int, n_pairs: int, measure: Measure | None, bar: tqdm[Any]):
        self._shape, self._measure, self._bar = (n_interventions, n_pairs), measure, bar
        self._lock = threading.Lock()
        self._values: Tensor | None = None
        self._pairs_done = np.zeros(n_interventions, dtype=np.int64)  # of each intervention

    def put(self, numbers: np.ndarray | Sequence[int], logits: Tensor, pairs: Tensor) -> None:
        """Logits (n, B, R, V) of the interventions `numbers` (n,), each of them once, on `pairs` (B,)."""
        value = logits
        if self._measure is not None:
            pair = pairs.repeat(len(numbers))
            value = self._measure(logits.flatten(0, 1), pair).unflatten(0, logits.shape[:2])
        with self._lock:
            if self._values is None:
                self._values = torch.empty(*self._shape, *value.shape[2:], dtype=value.dtype, device=value.device)
        number = torch.as_tensor(numbers, device=pairs.device)
        self._values[number[:, None], pairs] = value
        self._count(numbers, len(pairs))

    def repeat(self, duplicates: Sequence[tuple[int, int]], pairs: Tensor) -> None:
        """The first of each two interventions has the results of the second."""
        if duplicates and self._values is not None:
            to, source = torch.as_tensor(duplicates, device=pairs.device).T
            self._values[to[:, None], pairs] = self._values[source[:, None], pairs]
            self._count([first for first, _ in duplicates], len(pairs))

    def result(self) -> Tensor:
        """All values, on the CPU. Raises RuntimeError unless every intervention was measured on every pair."""
        wrong = np.flatnonzero(self._pairs_done != self._shape[1])
        if self._values is None or len(wrong):
            raise RuntimeError(
                f"{len(wrong)} of {self._shape[0]} interventions were not measured once on each of {self._shape[1]} "
                f"pairs, the first of them number {wrong[0]}: this is a defect of the sweep engine"
            )
        return self._values.cpu()

    def _count(self, numbers: np.ndarray | Sequence[int], n_pairs: int) -> None:
        with self._lock:
            self._pairs_done[numbers] += n_pairs
            self._bar.update(len(numbers) * n_pairs)
