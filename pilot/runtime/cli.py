"""What all commands share: options, devices, exit statuses, and errors of one line."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn

from pilot.errors import PilotError

if TYPE_CHECKING:
    import torch


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose error messages are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def add_config(self) -> None:
        self.add_argument("--config", type=Path, default=Path("params.yaml"), help="parameters (default: %(default)s)")

    def add_device(self) -> None:
        self.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one, else cpu)")


class _Terminated(BaseException):
    """Raised on SIGTERM. Like KeyboardInterrupt it passes every `except Exception`."""


def command(function: Callable[[list[str] | None], None]) -> Callable[..., int]:
    """Make `function(argv)` a program that returns its exit status.

    0 on success; 2 and one line for a PilotError; 130 and "interrupted" for Ctrl-C; 143 and "terminated" for SIGTERM;
    1 where nobody reads its output any more.
    """

    @functools.wraps(function)
    def main(argv: list[str] | None = None) -> int:
        previous = signal.signal(signal.SIGTERM, _terminate)
        try:
            function(argv)
        except PilotError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except _Terminated:
            print("terminated", file=sys.stderr)
            return 143
        except BrokenPipeError:  # as in `patch-pilot ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        finally:
            signal.signal(signal.SIGTERM, previous)
        return 0

    return main


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise _Terminated


def run_program(module: str) -> int:
    """Import `module` and return the exit status of its `main()`. Ctrl-C ends the import, too, in one word."""
    try:
        program = importlib.import_module(module)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return int(program.main())


def say_interrupted(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """A sys.excepthook that says "interrupted" for Ctrl-C, where Python would print a traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def resolve_device(name: str | None) -> torch.device:
    """The device called `name`, or the best one there is. Raises PilotError for one that is not there."""
    import torch  # here, because programs without PyTorch use this module, too

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise PilotError(f"--device {name}: not a device; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PilotError(f"--device {name}: PyTorch finds {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device
