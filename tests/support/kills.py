"""Kill programs at random moments, start them again, and compare what they end in.

    PYTHONPATH=.:tests python -m support.kills 20

Training saves its state after each step here, and a sweep is shared out pair by pair, so that kills meet a save in
progress often.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from pilot.experiments import subsets
from pilot.experiments.effects import PairExperiment
from support.project import ROOT, write_params

TRAINING = """
import pilot.training.loop, stages.train
pilot.training.loop.SAVE_SECONDS = 0
raise SystemExit(stages.train.main())
"""
SWEEP = """
from support import kills
import stages.counterfactual
kills.make_sweep_small(setattr)
raise SystemExit(stages.counterfactual.main())
"""
# Under torchrun, the second process is killed when it has written a shard, and not again when it is started anew.
KILLED_SWEEP = """
import os, signal
from support import kills
import pilot.runtime.shards, stages.counterfactual
def write_bytes(path, content, write=pilot.runtime.shards.write_bytes):
    write(path, content)
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
pilot.runtime.shards.write_bytes = write_bytes
kills.make_sweep_small(setattr)
raise SystemExit(stages.counterfactual.main())
"""


@dataclass(frozen=True)
class Program:
    """Python code and its arguments; the folder of its results; the file or folder that it saves its state in."""

    code: str
    arguments: list[str]
    output: Path
    state: Path


def training(folder: Path) -> Program:
    """Training on the parameters and data in `folder`, into `folder`/out/pilot."""
    names = {"--config": "params.yaml", "--data-dir": "data", "--output-dir": "out/pilot"}
    return Program(TRAINING, _arguments(folder, names), folder / "out/pilot", folder / "out/.state/pilot.pt")


def sweep(folder: Path) -> Program:
    """All sets of heads of the checkpoint in `folder`/runs on the pairs in `folder`/data, into `folder`/out/metrics."""
    names = {
        "--config": "params.yaml",
        "--checkpoint": "runs/checkpoint_best.pt",
        "--pairs": "data/pilot_pairs.jsonl",
        "--selection": "selection.json",
        "--metrics-dir": "out/metrics",
        "--state-dir": "out/.state/counterfactual",
    }
    return Program(SWEEP, _arguments(folder, names), folder / "out/metrics", folder / "out/.state/counterfactual")


def _arguments(folder: Path, names: dict[str, str]) -> list[str]:
    return ["--device", "cpu", *(text for option, name in names.items() for text in (option, str(folder / name)))]


def make_sweep_small(setattr: Callable[[object, str, object], None]) -> None:
    """One pair a chunk, and all pairs count as answered right: a model that does that takes long to train."""
    setattr(subsets, "PAIRS_PER_PART", 1)
    setattr(PairExperiment, "both_right", property(lambda experiment: np.ones(len(experiment), dtype=bool)))


def start(program: Program, torchrun: list[str] | None = None) -> subprocess.Popen:
    """The program in a process of its own, or in those that torchrun starts with these options."""
    command = [sys.executable, "-u", "-c", program.code, *program.arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    if torchrun:
        del environment["OMP_NUM_THREADS"]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *torchrun, "--no-python"]
        command = [*launcher, *command]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        # A shell's background job ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def results(output: Path) -> dict[str, object]:
    """What a finished run left in its output folder, by file name and without the seconds it took."""
    found: dict[str, object] = {path.name: path.read_bytes() for path in output.iterdir()}
    if "training.csv" in found:
        log = csv.DictReader(found["training.csv"].decode().splitlines())
        found["training.csv"] = [{**row, "seconds": None} for row in log]
        found["train.json"] = {**json.loads(found["train.json"]), "seconds": None}
    return found


def run_with_kills(
    program: Program, expected: dict[str, object], kills: int, rng: random.Random, most_processes: int = 1
) -> int:
    """Run a program again and again, with `kills` SIGKILLs in all at moments from `rng`; how often it resumed.

    As often as not the output folder is deleted before the next start, as DVC does. Each run has from one to
    `most_processes` processes. Raises AssertionError if one that comes to its end has other results than `expected`.
    """
    killed = resumed = 0
    ended = True
    while killed < kills or not ended:
        if ended or rng.random() < 0.5:
            shutil.rmtree(program.output, ignore_errors=True)
        processes = rng.randint(1, most_processes)
        process = start(program, [f"--nproc-per-node={processes}"] if processes > 1 else None)
        if killed < kills:
            _wait_for_saves(process, program.state, rng.randrange(40))
            time.sleep(rng.uniform(0, 0.1))
            _kill_all(process)
        out, err = process.communicate()
        ended = process.returncode == 0
        assert ended or process.returncode == -9, err
        assert "Starting afresh" not in out
        assert "Computing it again" not in out
        killed += not ended
        resumed += "Resuming after" in out
        if ended:
            assert results(program.output) == expected
            assert not program.state.parent.exists()
    return resumed


def _wait_for_saves(process: subprocess.Popen, state: Path, saves: int) -> None:
    """Wait for so many saves or the process's end. Raises AssertionError if it never saves: nothing would be tested."""
    seen: set[int] = set()
    while len(seen) <= saves and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            seen.add(state.stat().st_mtime_ns)
        time.sleep(0.002)
    assert seen, f"{state} was never there"


def _kill_all(process: subprocess.Popen) -> None:
    """SIGKILL for a process and its children; the parent stands still meanwhile, and neither sees nor starts any."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        parent.suspend()
        for child in parent.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()


def write_selection(path: Path) -> None:
    """A selection of two of the nine heads of the tiny model."""
    heads = [f"L{layer}H{head}" for layer in range(3) for head in range(3)]
    ranking = {head: {"rank": i + 1, "selected": int(i < 2)} for i, head in enumerate(heads)}
    path.write_text(json.dumps({"heads": ranking}))


def _uninterrupted(program: Program) -> dict[str, object]:
    process = start(program)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return results(program.output)


if __name__ == "__main__":
    from stages import generate

    kills = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = write_params(
            folder / "params.yaml", train={"examples_per_epoch": 1000}, counterfactual={"min_logit_gap": 0.001}
        )
        assert generate.main(["--config", str(params), "--output-dir", str(folder / "data")]) == 0
        program = training(folder)
        expected = _uninterrupted(program)
        shutil.copytree(program.output, folder / "runs")
        resumed = run_with_kills(program, expected, kills, random.Random())
        print(f"training: {kills} kills, {resumed} runs that resumed, always the same files in the end")
        write_selection(folder / "selection.json")
        program = sweep(folder)
        resumed = run_with_kills(program, _uninterrupted(program), kills, random.Random(), most_processes=2)
        print(f"sweep: {kills} kills, {resumed} runs that resumed, always the same files in the end")
