"""What all commands share: options, devices, and errors that a user can read."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from pilot.errors import PilotError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def add_config(self) -> None:
        self.add_argument("--config", type=Path, default=Path("params.yaml"), help="parameters (default: %(default)s)")

    def add_device(self) -> None:
        self.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one, else cpu)")


class _Terminated(BaseException):
    """SIGTERM has come; like KeyboardInterrupt it passes every `except Exception`."""


def command(function: Callable[[list[str] | None], None]) -> Callable[..., int]:
    """Make `function(argv)` a program: status 0; 2 and a line for a PilotError; 1 for a closed pipe.

    Ctrl-C ends it with a word and status 130, SIGTERM with a word and 143, as shells count them.
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
        except BrokenPipeError:  # of `patch-pilot ... | head`: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        finally:
            signal.signal(signal.SIGTERM, previous)
        return 0

    return main


def _terminate(signum, frame):
    raise _Terminated


def resolve_device(name: str | None):
    """The torch.device called `name`, or the best one there is. Raises PilotError for one that is not there."""
    import torch  # here, so that commands without PyTorch and --help stay quick

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise PilotError(f"--device {name}: not a device; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PilotError(f"--device {name}: PyTorch finds {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device
