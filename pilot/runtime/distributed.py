"""Several processes that compute one thing together, started by torchrun; a program by itself is a group of one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pilot.errors import PilotError

T = TypeVar("T")

# How long a process waits for the others. PyTorch's 30 minutes are too short for the end of a sweep, where one process
# may still compute its last part. A process that dies is noticed at once whatever the timeout: its connections close.
TIMEOUT = timedelta(days=7)


def launch(module: str, arguments: Sequence[str]) -> None:
    """Where PILOT_PROCESSES is set, become a torchrun with that many processes of `python -m module`; else return.

    This is for programs that a pipeline starts. Under torchrun it returns, too. Raises PilotError for a value that is
    not a number of processes.
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

    On a CPU they communicate over gloo and share the cores. With `fixed_threads` each takes OMP_NUM_THREADS cores, or
    one, because the bits of a matrix product depend on that number. On GPUs they communicate over nccl, one GPU each.
    Raises PilotError where the others cannot be reached.
    """
    if not dist.is_torchelastic_launched():
        yield device
        return
    # torchrun ends the others with SIGTERM when one has died; while they wait for that one no Python handler would run.
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
        backend = "nccl" if device.type == "cuda" else "gloo"
        with _communication():
            store, own_rank, size = next(rendezvous("env://"))
            # torchrun keeps its store over restarts, with the addresses of the killed processes in it.
            store = PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
            dist.init_process_group(backend, store=store, rank=own_rank, world_size=size, timeout=TIMEOUT)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if is_main() else nowhere):
            yield device
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    """The sum of every process' `value`, in each of them. Raises PilotError where the others cannot be reached."""
    if dist.is_initialized():
        with _communication():
            dist.all_reduce(value)
    return value


def from_main(compute: Callable[[], T]) -> T:
    """What `compute` returns in the main process, in every process. It is pickled on its way to the others.

    Raises PilotError where the others cannot be reached.
    """
    if not dist.is_initialized():
        return compute()
    result = [compute()] if is_main() else [None]
    with _communication():
        dist.broadcast_object_list(result)
    return cast(T, result[0])


def barrier() -> None:
    """Wait until every process has come here. Raises PilotError where the others cannot be reached."""
    if dist.is_initialized():
        with _communication():
            dist.barrier()


def broadcast_parameters(model: torch.nn.Module) -> None:
    """Give `model` the main process's parameters: machines of different kinds draw initial weights that differ."""
    if dist.is_initialized():
        with _communication():
            for parameter in model.parameters():
                dist.broadcast(parameter.data, src=0)


def sum_gradients(model: torch.nn.Module) -> None:
    """Put the sum of every process' gradients in place of each one's. Raises PilotError as `total`."""
    if dist.is_initialized():
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        summed = total(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, values in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(values.view_as(gradient))


@contextlib.contextmanager
def _communication() -> Iterator[None]:
    """Around calls of torch.distributed, whose backends raise plain RuntimeErrors when a process is gone."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:160]
        raise PilotError(f"another process of the group has ended, or cannot be reached ({reason})") from None
