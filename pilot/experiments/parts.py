"""Measuring pairs part by part: processes share engine and parts, and a killed run resumes after the last part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pilot.experiments.effects import PairExperiment
from pilot.ops.toolchain import sources
from pilot.runtime import distributed
from pilot.runtime.resume import arithmetic_of, fingerprint
from pilot.runtime.shards import Shards
from pilot.sweep import SweepEngine


def shared_engine(model: nn.Module, impl: str) -> SweepEngine:
    """The engine of every process of the group; the main one builds the operators."""
    if distributed.world_size() == 1:
        return SweepEngine(model, impl)
    return SweepEngine(model, distributed.from_main(lambda: SweepEngine(model, impl).impl))


def sweep_shards(
    folder: Path, engine: SweepEngine, device: torch.device, files: Sequence[Path], code: Sequence[str]
) -> Shards:
    """The state that killed sweeps resume from, by all that decides their bits.

    folder   the processes of one group share it, and no other run
    files    that the sweeps depend on, such as the checkpoint
    code     packages and modules that they run
    """
    operators = sources() if engine.impl == "fused" else ()
    facts = {"arithmetic": arithmetic_of(device), "rows": engine.rows}
    return Shards(folder, fingerprint(facts, [*files, *operators], code))


def measured_in_parts(
    experiment: PairExperiment,
    parts: Sequence[list[int]],
    measure: Callable[[list[int]], dict[str, Tensor]],
    shards: Shards | None,
    parameters: Mapping[str, Any],
) -> dict[str, np.ndarray] | None:
    """What `measure` returns of each part, put together in the order of the experiment's pairs.

    parts        numbers of the pairs, every pair in one part
    measure      numbers of pairs -> tensors (..., so many pairs)
    shards       None: in this process, and nothing is kept
    parameters   plain values that the measurements depend on, besides the pairs, the direction and the implementation

    None in all processes but the main one.
    """
    every = {
        "direction": experiment.direction,
        "impl": experiment.engine.impl,
        "pairs": [(pair.clean, pair.corrupt) for pair in experiment.pairs],
        **parameters,
    }
    results = map(measure, parts) if shards is None else shards.results(every, parts, measure)
    if results is None:
        return None
    whole: dict[str, np.ndarray] = {}
    for pairs, result in zip(parts, results, strict=True):
        for name, values in result.items():
            part = values.numpy()
            whole.setdefault(name, np.empty((*part.shape[:-1], len(experiment)), part.dtype))[..., pairs] = part
    return whole


def in_parts(pairs: Sequence[int], size: int) -> list[list[int]]:
    """The numbers in lists of `size`, the last one perhaps shorter."""
    return [list(pairs[start : start + size]) for start in range(0, len(pairs), size)]
