"""Sweeps by the trie, chunk by chunk: pairs are independent, so every core executes chunks of its own, by itself.

Two cores on two chunks wait for nobody; two cores inside each small matrix product wait for each other after every one.

Shapes: P pairs, B pairs of a chunk, T positions, R read positions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from pilot.sweep.buffers import Buffers
from pilot.sweep.executor import PARTS_OF_A_BATCH, Chunk, Executor, ReadyProgram
from pilot.sweep.inputs import SweepInputs
from pilot.sweep.layout import Layouts
from pilot.sweep.operators import Operators
from pilot.sweep.plan import Plan, Planner
from pilot.sweep.program import Program
from pilot.sweep.results import Measurements
from pilot.sweep.unembedding import Unembedding

USUAL_CACHE = 2**20  # bytes of second-level cache, where the system does not say


class Scheduler:
    """Sweeps over one program; keeps plans and buffers from one sweep to the next."""

    def __init__(self, program: Program, operators: Operators):
        self._model, self._like = ReadyProgram.of(program, operators), program.unembed.weight
        self._planner = lru_cache(maxsize=4)(partial(Planner, n_layers=len(program.layers)))
        self._idle_buffers: list[Buffers] = []

    def run(self, inputs: SweepInputs, rows: int, measurements: Measurements) -> None:
        """Measure every intervention on every pair; `rows` as for Executor."""
        planner = self._planner(inputs.interventions)
        first = inputs.first_difference()
        # Pairs that begin to differ at one position, and are read at the same ones, stand together.
        order = torch.from_numpy(np.lexsort([*inputs.read.T.flip(0).numpy(), first.numpy()]))
        on_cpu = self._like.device.type == "cpu"
        threads = torch.get_num_threads() if on_cpu else 1
        widest = planner.plan(int(first.min()), _positions(inputs.read))
        batch = max(1, PARTS_OF_A_BATCH * rows // (widest.end * widest.fan_out))
        rounds = -(-len(order) // (batch * threads))  # every thread has as many chunks, all of about one size
        chunks = order.tensor_split(min(rounds * threads, len(order)))

        def run_chunk(pairs: Tensor) -> None:
            plan = planner.plan(int(first[pairs].min()), _positions(inputs.read[pairs]))
            self._run_chunk(inputs, pairs, plan, rows, measurements)

        _for_each(chunks, run_chunk, min(threads, len(chunks)))

    @torch.no_grad()  # which every thread has to say for itself
    def _run_chunk(self, inputs: SweepInputs, pairs: Tensor, plan: Plan, rows: int, measurements: Measurements) -> None:
        device, read = self._like.device, inputs.read[pairs]
        put = partial(measurements.put, pairs=pairs.to(device))
        with self._buffers() as buffers:
            executor = Executor(self._model, buffers, rows)
            runs = executor.unpatched(inputs.unpatched(pairs)[:, : plan.end].to(device), plan, buffers.unpatched)
            recipient = [run.rows(slice(len(pairs))) for run in runs]
            given = inputs.given_outputs(pairs)
            if given is None:
                donor = [run.z[-len(pairs) :] for run in runs]
            else:  # of all positions, where a run has those that are used
                donor = [z[:, run.start : plan.end].to(device) for z, run in zip(given, runs, strict=True)]
            tokens = None if inputs.tokens is None else inputs.tokens[pairs].to(device)
            unembedding = Unembedding.of(self._model.program.unembed, tokens)
            executor.run(Chunk(plan, Layouts(plan, read, device), recipient, donor, unembedding, put))
        measurements.repeat(plan.duplicates, pairs.to(device))

    @contextmanager
    def _buffers(self) -> Iterator[Buffers]:
        """Buffers that nobody else uses meanwhile."""
        try:
            buffers = self._idle_buffers.pop()  # atomic: threads need no lock
        except IndexError:
            buffers = Buffers(self._like, len(self._model.layers))
        yield buffers
        self._idle_buffers.append(buffers)


def row_budget(weight: Tensor, width: int) -> int:
    """How many rows of `width` numbers to compute at a time, in the dtype and on the device of `weight`.

    On a CPU as many as stay in a core's second-level cache; on a GPU, where launches cost more than memory, as many as
    take a 256th part of it.
    """
    row_bytes = width * weight.element_size()
    if weight.is_cuda:
        return int(torch.cuda.get_device_properties(weight.device).total_memory // 256 // row_bytes)
    known = "SC_LEVEL2_CACHE_SIZE" in os.sysconf_names and os.sysconf("SC_LEVEL2_CACHE_SIZE")
    return max(64, (known or USUAL_CACHE) // row_bytes)


def _for_each(chunks: Sequence[Tensor], run: Callable[[Tensor], None], threads: int) -> None:
    """`run` every chunk, on so many threads in which PyTorch computes on one core each."""
    if threads == 1:
        for chunk in chunks:
            run(chunk)
        return
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for done in [pool.submit(run, chunk) for chunk in chunks]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _positions(read: Tensor) -> tuple[int, ...]:
    return tuple(read.unique().tolist())
