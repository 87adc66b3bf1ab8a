"""Several processes that compute one thing together, started by torchrun; a program by itself is a group of one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pilot.errors import PilotError

T = TypeVar("T")
# How long processes wait for each other. One that dies is noticed at once; this is for one that has much to do.
PATIENCE = timedelta(days=7)


def launch(module: str, arguments: Sequence[str]) -> None:
    """Where PILOT_PROCESSES is set, become a torchrun with so many processes of `python -m module`; else return.

    This is for programs that a pipeline starts. Under torchrun it returns too. Raises PilotError for a value that is no
    number of processes.
    """
    processes = os.environ.get("PILOT_PROCESSES")
    if not processes or dist.is_torchelastic_launched():
        return
    if not processes.isdecimal() or int(processes) == 0:
        raise PilotError(f"PILOT_PROCESSES={processes}: must be a number of processes, 1 or more")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    os.execv(sys.executable, [sys.executable, *torchrun, "-m", module, *arguments])


@contextlib.contextmanager
def process_group(device: torch.device, fixed_threads: bool = False) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; yields the device of this one. Only rank 0 prints.

    On a CPU they talk over gloo and share the cores; with `fixed_threads` each takes OMP_NUM_THREADS of them, else one,
    because the bits of a matrix product depend on that number. On GPUs they talk over nccl, one GPU each. Raises
    PilotError in the others when one of them is gone.
    """
    if not dist.is_torchelastic_launched():
        yield device
        return
    # torchrun ends the others so when one has died; while they wait for that one no Python handler would run.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device.type == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    elif fixed_threads:
        if "OMP_NUM_THREADS" not in os.environ:  # of one process: for more torchrun sets it to 1
            torch.set_num_threads(1)
    elif os.environ.get("OMP_NUM_THREADS") == "1":  # torchrun's default, however many cores there are
        torch.set_num_threads(max(1, _n_cores() // local_size))
    try:
        store, own_rank, size = next(dist.rendezvous("env://"))
        # torchrun keeps its store over restarts, with the addresses of the killed processes in it.
        store = dist.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=own_rank, world_size=size, timeout=PATIENCE)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if is_main() else nowhere):
            yield device
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise PilotError("another process of the group has ended, or cannot be reached") from None
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def rank() -> int:
    """Which process of the group this is: 0 .. world_size() - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes the group has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the one process that writes files and prints."""
    return rank() == 0


def total(value: torch.Tensor) -> torch.Tensor:
    """The sum of every process' `value`, in each of them."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def from_main(compute: Callable[[], T]) -> T:
    """What `compute` returns in the main process, in every process. It is pickled on its way to the others."""
    result = [compute() if is_main() else None]
    if dist.is_initialized():
        dist.broadcast_object_list(result)
    return result[0]


def barrier() -> None:
    """Wait until every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def data_parallel(model: torch.nn.Module) -> torch.nn.Module:
    """`model`, such that backward leaves the mean of all processes' gradients in each."""
    return DistributedDataParallel(model) if world_size() > 1 else model
