"""Computations that are killed, and that cannot write: what stays, and what the same command then makes of it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.kills import results, run_with_kills, start, training
from support.project import mounted, write_params

from pilot.runtime.resume import SavedState, arithmetic_of, code_digest, fingerprint
from stages import generate, train

STATE = {"weights": torch.arange(5.0), "log": [{"epoch": 1, "loss": 0.5}], "step": 7}


def test_a_state_comes_back_to_its_own_key_only(tmp_path, capsys):
    path = tmp_path / ".state" / "pilot.pt"
    state = SavedState(path, "key")
    assert state.load() is None
    assert capsys.readouterr().out == "", "the first run has nothing to say"
    state.save(STATE)
    loaded = state.load()
    assert torch.equal(loaded.pop("weights"), STATE["weights"])
    assert loaded == {"log": STATE["log"], "step": 7}
    assert SavedState(path, "other").load() is None
    assert capsys.readouterr().out == f"Starting afresh: {path} was saved with other parameters, code or data\n"
    (path.parent / f".pilot.pt.{os.getpid()}.tmp").write_bytes(b"of a writer that was killed")
    state.remove()
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:-40], lambda b: b.replace(b"\0\0\x80\x40", b"\0\0\x81\x40")]
)
def test_a_damaged_state_is_left_aside_with_a_line(tmp_path, capsys, damage):
    state = SavedState(tmp_path / "pilot.pt", "key")
    state.save(STATE)
    whole = state.path.read_bytes()
    state.path.write_bytes(damage(whole))
    assert state.path.read_bytes() != whole
    assert state.load() is None
    out = capsys.readouterr().out
    assert out.startswith(f"Starting afresh: {state.path}: not a readable archive")
    assert out.count("\n") == 1


def test_a_state_is_kept_while_another_is_in_the_folder(tmp_path):
    one, other = (SavedState(tmp_path / ".state" / name, "key") for name in ("one.pt", "other.pt"))
    one.save(STATE)
    other.save(STATE)
    one.remove()
    assert not one.path.exists()
    assert other.load()["step"] == 7


def test_the_fingerprint_tells_parameters_and_data_apart(tmp_path):
    def of(parameters, files):
        return fingerprint(parameters, files, ["pilot.errors"])

    (tmp_path / "data").write_text("1")
    prints = {of({"seed": 0}, [tmp_path / "data"]), of({"seed": 1}, [tmp_path / "data"])}
    (tmp_path / "data").write_text("2")
    prints |= {of({"seed": 0}, [tmp_path / "data"]), of({"seed": 0}, [])}
    assert len(prints) == 4
    assert of({"a": 1, "b": 2}, []) == of({"b": 2, "a": 1}, [])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `shop` with a module, a sub-package with a module, and a package `elsewhere`."""
    for name in ("shop/__init__.py", "shop/till.py", "shop/stock/__init__.py", "shop/stock/bread.py", "elsewhere.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "changed", ["shop/__init__.py", "shop/till.py", "shop/stock/__init__.py", "shop/stock/bread.py"]
)
def test_the_fingerprint_sees_code_at_every_depth(package, changed):
    before = fingerprint({}, [], ["shop"])
    (package / changed).write_text("2\n")
    assert fingerprint({}, [], ["shop"]) != before


def test_the_fingerprint_sees_a_module_move_and_no_other_code(package):
    before = code_digest(["shop"])
    (package / "elsewhere.py").write_text("2\n")
    assert code_digest(["shop"]) == before
    assert code_digest(["shop", "elsewhere"]) != before
    (package / "shop/till.py").rename(package / "shop/stock/till.py")
    assert code_digest(["shop"]) != before


def test_the_fingerprint_of_a_part_does_not_see_the_rest(package):
    bread = code_digest(["shop.stock"])
    (package / "shop/till.py").write_text("2\n")
    assert code_digest(["shop.stock"]) == bread


def test_an_unknown_package_is_an_error():
    with pytest.raises(ModuleNotFoundError, match=r"pilot\.charms"):
        code_digest(["pilot.charms"])


def test_processes_that_round_differently_are_told_apart(monkeypatch):
    cpu = torch.device("cpu")
    here = arithmetic_of(cpu)
    assert here == arithmetic_of(cpu)
    assert here["threads"] == torch.get_num_threads()
    monkeypatch.setenv("PILOT_CPU_CAPABILITY", "another")
    assert arithmetic_of(cpu) != here


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """A folder with parameters and data of a training of 48 steps, and in `whole` what it ends in uninterrupted."""
    folder = tmp_path_factory.mktemp("task")
    params = write_params(folder / "params.yaml", train={"examples_per_epoch": 1000})
    assert generate.main(["--config", str(params), "--output-dir", str(folder / "data")]) == 0
    assert _train(folder, folder / "whole") == 0
    return folder


def _train(folder: Path, output: Path) -> int:
    files = ["--config", str(folder / "params.yaml"), "--data-dir", str(folder / "data"), "--output-dir", str(output)]
    return train.main([*files, "--device", "cpu"])


@pytest.fixture
def workspace(task, tmp_path) -> Path:
    """The task in a folder of its own, to be trained into out/pilot."""
    shutil.copy(task / "params.yaml", tmp_path)
    shutil.copytree(task / "data", tmp_path / "data")
    return tmp_path


def test_killed_training_ends_in_the_same_bits(task, workspace):
    run_with_kills(training(workspace), results(task / "whole"), kills=2, rng=random.Random())


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_training_with_a_word_and_the_same_command_goes_on(task, workspace, capsys, number, status, word):
    process = start(training(workspace))
    while not (workspace / "out/.state/pilot.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, err) == (status, f"{word}\n"), out
    assert not list(workspace.rglob("*.tmp"))
    assert _train(workspace, workspace / "out/pilot") == 0
    assert "Resuming after epoch " in capsys.readouterr().out
    assert results(workspace / "out/pilot") == results(task / "whole")


def test_a_full_disk_is_said_and_training_goes_on_when_there_is_room(task, workspace, capsys):
    with mounted(workspace / "out", "size=1800k"):
        assert _train(workspace, workspace / "out/pilot") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {workspace / 'out'}")
        assert error.endswith("cannot be written (No space left on device)\n")
        assert error.count("\n") == 1
        assert not list(workspace.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=20m", workspace / "out"], check=True)
        assert _train(workspace, workspace / "out/pilot") == 0
        assert "Resuming after epoch " in capsys.readouterr().out
        assert results(workspace / "out/pilot") == results(task / "whole")


def test_a_read_only_folder_is_said(workspace, capsys):
    with mounted(workspace / "out", "ro"):
        assert _train(workspace, workspace / "out/pilot") == 2
        path = workspace / "out/pilot/checkpoint_last.pt"
        assert capsys.readouterr().err == f"error: {path}: cannot be written (Read-only file system)\n"
