"""Kill training at random moments, start it again, and compare what it ends in: python tests/kills.py 20

The state is saved after each step here, so that kills meet a save in progress often.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from project import ROOT, write_params

PROGRAM = """
import pilot.training, stages.train
pilot.training.SAVE_SECONDS = 0
raise SystemExit(stages.train.main())
"""


def start(folder: Path, **options) -> subprocess.Popen:
    """Training as a process of its own, on the parameters and data in `folder`, into `folder`/out/pilot."""
    files = ["--config", folder / "params.yaml", "--data-dir", folder / "data", "--output-dir", folder / "out/pilot"]
    return subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, *files, "--device", "cpu"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def results(output: Path) -> dict[str, object]:
    """What a finished run left in its output folder, by file name and without the seconds it took."""
    found: dict[str, object] = {path.name: path.read_bytes() for path in output.iterdir()}
    log = csv.DictReader(found["training.csv"].decode().splitlines())
    found["training.csv"] = [{**row, "seconds": None} for row in log]
    found["train.json"] = {**json.loads(found["train.json"]), "seconds": None}
    return found


def train_with_kills(folder: Path, expected: dict[str, object], kills: int, rng: random.Random) -> int:
    """Train in `folder` again and again, with `kills` SIGKILLs in all at moments from `rng`; how often it resumed.

    As often as not the output folder is deleted before the next start, as DVC does. Raises AssertionError if a run
    that comes to its end has other results than `expected`.
    """
    output, state = folder / "out/pilot", folder / "out/.state/pilot.pt"
    killed = resumed = 0
    ended = True
    while killed < kills or not ended:
        if ended or rng.random() < 0.5:
            shutil.rmtree(output, ignore_errors=True)
        process = start(folder)
        if killed < kills:
            _wait_for_saves(process, state, rng.randrange(40))
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
        out, err = process.communicate()
        ended = process.returncode == 0
        assert ended or process.returncode == -9, err
        assert "Starting afresh" not in out
        killed += not ended
        resumed += "Resuming after" in out
        if ended:
            assert results(output) == expected
            assert not state.parent.exists()
    return resumed


def _wait_for_saves(process: subprocess.Popen, state: Path, saves: int) -> None:
    seen: set[int] = set()
    while len(seen) <= saves and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            seen.add(state.stat().st_mtime_ns)
        time.sleep(0.002)


if __name__ == "__main__":
    from stages import generate, train

    kills = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        params = write_params(Path(name) / "params.yaml", train={"examples_per_epoch": 1000})
        files = ["--config", str(params), "--data-dir", f"{name}/data"]
        assert generate.main(["--config", str(params), "--output-dir", f"{name}/data"]) == 0
        assert train.main([*files, "--output-dir", f"{name}/whole", "--device", "cpu"]) == 0
        resumed = train_with_kills(Path(name), results(Path(name) / "whole"), kills, random.Random())
    print(f"{kills} kills, {resumed} runs that resumed, always the same files in the end")
