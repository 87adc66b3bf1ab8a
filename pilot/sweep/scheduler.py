"""Runs a trie sweep chunk by chunk: pairs are independent, so every core walks chunks of its own, by itself.

Two cores on two chunks wait for nobody; two cores inside each small matrix product wait for each other after every one.

Shapes: P pairs, B pairs of a chunk, T positions, R read positions, V vocabulary.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pilot.interventions import Intervention
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.sweep.executor import PARTS_OF_A_BATCH, Chunk, Walker
from pilot.sweep.lowering import fold
from pilot.sweep.plan import Plan, Planner

USUAL_CACHE = 2**20  # bytes of second-level cache, where the system does not say

Measure = Callable[[Tensor, Tensor], Tensor]


class Results:
    """Where measured values are put, (n_interventions, P, ...), as they stream out of a sweep, from any thread."""

    def __init__(self, n_interventions: int, n_pairs: int, measure: Measure | None, bar: tqdm):
        self._shape, self._measure, self._bar = (n_interventions, n_pairs), measure, bar
        self._lock = threading.Lock()
        self.values: Tensor | None = None

    def put(self, numbers: np.ndarray, logits: Tensor, pairs: Tensor) -> None:
        """Logits (n, B, R, V) of the interventions `numbers` (n,) on `pairs` (B,)."""
        value = logits
        if self._measure is not None:
            pair = pairs.repeat(len(numbers))
            value = self._measure(logits.flatten(0, 1), pair).unflatten(0, logits.shape[:2])
        with self._lock:
            if self.values is None:
                self.values = torch.empty(*self._shape, *value.shape[2:], dtype=value.dtype, device=value.device)
            self._bar.update(value.shape[0] * value.shape[1])
        number = torch.as_tensor(numbers, device=pairs.device)
        self.values[number[:, None], pairs] = value

    def repeat(self, numbers: Sequence[tuple[int, int]], pairs: Tensor) -> None:
        """The first of each two interventions has the results of the second."""
        if numbers:
            to, source = torch.as_tensor(numbers, device=pairs.device).T
            self.values[to[:, None], pairs] = self.values[source[:, None], pairs]
            with self._lock:
                self._bar.update(len(numbers) * len(pairs))


def row_budget(model: PilotTransformer) -> int:
    """How many rows of the residual stream to compute at a time on the model's device.

    On a CPU as many as leave the MLP's hidden units and output in a core's second-level cache, from the one product
    to the other; on a GPU, where launches cost more than memory, as many as take a 256th part of it.
    """
    weight = model.unembed.weight
    row_bytes = (model.config.d_mlp + model.config.d_model) * weight.element_size()
    if weight.is_cuda:
        return torch.cuda.get_device_properties(weight.device).total_memory // 256 // row_bytes
    known = "SC_LEVEL2_CACHE_SIZE" in os.sysconf_names and os.sysconf("SC_LEVEL2_CACHE_SIZE")
    return max(64, (known or USUAL_CACHE) // row_bytes)


def sweep_trie(
    model: PilotTransformer,
    recipient: Tensor,
    donor: Tensor | Sequence[Tensor],
    interventions: Sequence[Intervention],
    read: Tensor,
    impl: str,
    rows: int,
    results: Results,
) -> None:
    """`pilot.sweep.sweep` by the trie, its arguments checked; `impl` "fused" or "eager"."""
    device = model.unembed.weight.device
    weights, own = fold(model), threading.local()
    plan_for = _planner(tuple(interventions), model.config)
    # Pairs that begin to differ at one position, and are read at the same ones, stand together.
    first = _first_difference(recipient, donor)
    order = torch.from_numpy(np.lexsort([*read.T.flip(0).numpy(), first.numpy()]))

    @torch.no_grad()  # which every thread has to say for itself
    def walk(pairs: Tensor) -> None:
        if not hasattr(own, "walker"):
            own.walker = Walker(weights, impl, rows)
        plan = plan_for(int(first[pairs].min()), _positions(read[pairs]))
        tokens = recipient[pairs, : plan.end].to(device)
        if isinstance(donor, Tensor):
            source = [run.z for run in own.walker.unpatched("donor", donor[pairs, : plan.end].to(device), plan)]
        else:
            source = [(z if len(z) == 1 else z[pairs])[:, : plan.end].to(device) for z in donor]
            source[-1] = source[-1][:, plan.reads[0] :]
        put = partial(results.put, pairs=pairs.to(device))
        runs = own.walker.unpatched("recipient", tokens, plan)
        own.walker.walk(Chunk(plan, runs, source, read[pairs], put))
        results.repeat(plan.duplicates, pairs.to(device))

    threads = torch.get_num_threads() if device.type == "cpu" else 1
    widest = plan_for(int(first.min()), _positions(read))
    batch = max(1, PARTS_OF_A_BATCH * rows // (widest.end * widest.fan_out))
    rounds = -(-len(order) // (batch * threads))  # every thread has as many chunks, all of about one size
    chunks = order.tensor_split(min(rounds * threads, len(order)))
    if min(threads, len(chunks)) == 1:
        for pairs in chunks:
            walk(pairs)
        return
    with _one_thread_each(threads) as pool:
        for done in [pool.submit(walk, pairs) for pairs in chunks]:
            done.result()


@lru_cache(maxsize=4)
def _planner(interventions: tuple[Intervention, ...], config: ModelConfig) -> Callable[[int, tuple[int, ...]], Plan]:
    """The plans of these interventions, kept: an experiment sweeps them over pairs of one length after another."""
    return lru_cache(maxsize=8)(Planner(interventions, config).plan)


@contextmanager
def _one_thread_each(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of so many threads in which PyTorch computes on one core each."""
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _first_difference(recipient: Tensor, donor: Tensor | Sequence[Tensor]) -> Tensor:
    """The first position where each pair's tokens differ, (P,); T where they are the same."""
    if not isinstance(donor, Tensor):
        return torch.zeros(len(recipient), dtype=torch.int64)
    same = (recipient == donor).long()
    return same.cumprod(1).sum(1)


def _positions(read: Tensor) -> tuple[int, ...]:
    return tuple(read.unique().tolist())
