"""Sweeps that several processes share, that are killed, and that cannot write: the result is always the same bits."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.kills import (
    KILLED_SWEEP,
    Program,
    make_sweep_small,
    results,
    run_with_kills,
    start,
    sweep,
    write_selection,
)
from support.project import mounted, write_params

from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import token_pairs
from pilot.errors import PilotError
from pilot.experiments import subsets
from pilot.experiments.effects import PairExperiment
from pilot.experiments.subsets import measure_subsets
from pilot.interventions import HeadPatch, head_subsets
from pilot.models.checkpoint import load_model
from pilot.runtime import distributed
from pilot.runtime.shards import Shards
from pilot.sweep import SweepEngine
from stages import counterfactual

PARTS = [[1, 2], [3, 4], [5, 6], [7]]
SQUARES = [[1, 4], [9, 16], [25, 36], [49]]


class Squares:
    """Squares the numbers of a part, counts its calls, and breaks off after so many of them."""

    def __init__(self, breaks_after: int | None = None):
        self.calls, self.breaks_after = 0, breaks_after

    def __call__(self, part: list[int]) -> dict[str, torch.Tensor]:
        if self.calls == self.breaks_after:
            raise KeyboardInterrupt
        self.calls += 1
        return {"squares": torch.tensor(part) ** 2}


def squares(shards: Shards, compute: Squares, **parameters) -> list[list[int]]:
    return [result["squares"].tolist() for result in shards.results(parameters, PARTS, compute)]


def test_results_come_in_the_order_of_the_parts_and_nothing_stays_behind(tmp_path):
    shards = Shards(tmp_path / ".state" / "squares", "key")
    assert squares(shards, Squares()) == SQUARES
    assert len(list(shards.folder.iterdir())) == 4
    shards.remove()
    assert not (tmp_path / ".state").exists()


@given(breaks_after=st.lists(st.integers(0, 4), max_size=5))
def test_only_unfinished_parts_are_computed_again(tmp_path_factory, breaks_after):
    shards = Shards(tmp_path_factory.mktemp("state"), "key")
    finished = 0
    for most in breaks_after:
        compute = Squares(most)
        if finished + most < 4:
            with pytest.raises(KeyboardInterrupt):
                squares(shards, compute)
        finished += compute.calls
    compute = Squares()
    assert squares(shards, compute) == SQUARES
    assert finished + compute.calls == 4


def test_how_many_parts_were_done_is_said(tmp_path, capsys):
    shards = Shards(tmp_path, "key")
    with pytest.raises(KeyboardInterrupt):
        squares(shards, Squares(3))
    assert capsys.readouterr().out == "", "the first run has nothing to say"
    squares(shards, Squares())
    assert capsys.readouterr().out == f"Resuming after 3 of 4 parts, from {tmp_path}\n"


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-40], lambda b: b.replace(b"\x24\0", b"\x25\0")])
def test_a_damaged_shard_is_computed_again_with_a_line(tmp_path, capsys, damage):
    shards = Shards(tmp_path, "key")
    squares(shards, Squares())
    path = next(path for path in tmp_path.iterdir() if b"\x24\0" in path.read_bytes())  # 36
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    compute = Squares()
    assert squares(shards, compute) == SQUARES
    assert compute.calls == 1
    assert capsys.readouterr().out.startswith(f"Computing it again: {path}: not a readable archive")
    assert path.read_bytes() == whole


def test_shards_of_other_parameters_or_another_key_are_not_taken(tmp_path):
    squares(Shards(tmp_path, "key"), Squares())
    for shards, parameters in ((Shards(tmp_path, "key"), {"power": 2}), (Shards(tmp_path, "other"), {})):
        compute = Squares()
        squares(shards, compute, **parameters)
        assert compute.calls == 4


def test_shards_of_a_run_given_up_go_and_other_files_stay(tmp_path):
    others = {"checkpoint.pt", "pot.shard", ".pot.shard.123.tmp", ".notes.backup.tmp"}
    for name in others:
        (tmp_path / name).write_bytes(b"of somebody else")
    squares(Shards(tmp_path, "given up"), Squares())
    (tmp_path / f".{'a' * 64}.shard.{os.getpid()}.tmp").write_bytes(b"of a writer that was killed")
    Shards(tmp_path, "key").remove()
    assert {path.name for path in tmp_path.iterdir()} == others


def test_a_helper_has_no_results_and_the_main_process_fills_in_what_is_missing(tmp_path, monkeypatch, capsys):
    """As with two nodes that do not see each other's folder: that costs time, and is said."""
    helper, main = Squares(), Squares()
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "rank", lambda: 1)
        patch.setattr(distributed, "from_main", lambda compute: compute())
        assert Shards(tmp_path / "helper", "key").results({}, PARTS, helper) is None
    assert squares(Shards(tmp_path / "main", "key"), main) == SQUARES
    assert (helper.calls, main.calls) == (2, 4)
    assert capsys.readouterr().out.startswith(
        "Computing 2 of 4 parts again: other processes computed them, but their shards are not in "
        f"{tmp_path / 'main'} here."
    )


def test_a_full_disk_is_said_and_the_sweep_goes_on_when_there_is_room(tmp_path):
    class Megabyte(Squares):
        def __call__(self, part):
            return {**super().__call__(part), "ballast": torch.zeros(2**18)}

    shards = Shards(tmp_path / "small" / "state", "key")
    with mounted(tmp_path / "small", "size=2500k"):
        with pytest.raises(PilotError, match=r"\.shard: cannot be written \(No space left on device\)$"):
            squares(shards, Megabyte())
        assert not list(shards.folder.glob(".*"))
        subprocess.run(["mount", "-o", "remount,size=20m", tmp_path / "small"], check=True)
        compute = Megabyte()
        assert squares(shards, compute) == SQUARES
        assert compute.calls == 2


def test_a_shared_sweep_has_the_bits_of_a_sweep_by_itself(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(subsets, "PAIRS_PER_PART", 8)
    model, heads = load_model(trained.checkpoint), (HeadPatch(0, 0), HeadPatch(1, 2), HeadPatch(2, 1))
    pairs = token_pairs(read_pairs(trained.data / "pilot_pairs.jsonl")[:19])
    experiment = PairExperiment(SweepEngine(model), pairs, "noising")
    alone, shared = (measure_subsets(experiment, heads, shards) for shards in (None, Shards(tmp_path, "key")))
    assert alone.change.tobytes() == shared.change.tobytes()
    assert alone.gap.tobytes() == shared.gap.tobytes()
    assert len(list(tmp_path.iterdir())) == 3
    np.testing.assert_allclose(shared.change, experiment.changes(head_subsets(heads)), atol=1e-4)
    np.testing.assert_allclose(shared.gap, experiment.gap, atol=1e-4)


@pytest.fixture(scope="module")
def task(trained, tmp_path_factory) -> tuple[Path, dict[str, object]]:
    """A folder with what the stage reads, and what it then writes."""
    folder = tmp_path_factory.mktemp("task")
    write_params(folder / "params.yaml", counterfactual={"min_logit_gap": 0.1})
    write_selection(folder / "selection.json")
    for name in ("data", "runs"):
        shutil.copytree(trained.folder / name, folder / name)
    program = sweep(folder)
    with pytest.MonkeyPatch.context() as patch:
        make_sweep_small(patch.setattr)
        assert counterfactual.main(program.arguments) == 0
    expected = results(program.output)
    shutil.rmtree(folder / "out")
    return folder, expected


@pytest.fixture
def program(task, tmp_path) -> Program:
    shutil.copytree(task[0], tmp_path, dirs_exist_ok=True)
    return sweep(tmp_path)


def test_four_processes_have_the_bits_of_one(task, program):
    process = start(program, ["--nproc-per-node=4"])
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("denoising: all 512 sets of heads") == 2, "the main process alone prints"
    assert results(program.output) == task[1]
    assert not program.state.parent.exists()


def test_two_processes_go_on_when_a_worker_is_killed(task, program):
    process = start(replace(program, code=KILLED_SWEEP), ["--nproc-per-node=2", "--max-restarts=1"])
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Resuming after" in out
    assert results(program.output) == task[1]
    assert not program.state.parent.exists()


def test_a_killed_sweep_ends_in_the_same_bits(task, program):
    run_with_kills(program, task[1], kills=2, rng=random.Random())


def test_a_read_only_state_folder_is_said(program, monkeypatch, capsys):
    make_sweep_small(monkeypatch.setattr)
    with mounted(program.state.parent, "ro"):
        assert counterfactual.main(program.arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {program.state}")
    assert error.endswith(".shard: cannot be written (Read-only file system)\n")
    assert error.count("\n") == 1
