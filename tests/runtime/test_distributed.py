"""Training under torchrun: the same gradients as in one process, and the way on when a worker is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import psutil
import pytest
import torch
from support.project import ROOT, write_params

from pilot.arithmetic.examples import Example, buckets_by_length
from pilot.errors import PilotError
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.reporting.params import load_params
from pilot.runtime import distributed
from pilot.runtime.resume import SavedState
from pilot.training.loop import Training
from stages import generate, train

# A last batch of one line leaves the second process without any.
BATCHES = [
    [Example("1+1", "2"), Example("9*9", "81"), Example("2-8", "-6"), Example("0*1", "0")],
    [Example("(1-2)-3", "-4")],
]


def gradients(params: Path) -> dict[str, torch.Tensor]:
    """Those of a small model for a batch with answers of different lengths, and those for a batch of a single line."""
    torch.manual_seed(0)
    model = PilotTransformer(ModelConfig(n_layers=2, n_heads=2, d_model=8, d_mlp=8, context=12))
    buckets = [bucket for examples in BATCHES for bucket in buckets_by_length(examples)]
    training = Training(model, buckets, load_params(params).train)
    training._optimizers = training._schedules = []  # so that weights stay
    found = {}
    for i, bucket in enumerate(buckets):
        model.zero_grad()
        found[f"loss {i}"] = torch.tensor(training._train_step(bucket, torch.device("cpu")))
        found |= {f"{name} {i}": p.grad.clone() for name, p in model.named_parameters()}
    return found


def _torchrun(*command: str) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *map(str, command)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_program_by_itself_is_a_group_of_one():
    device, model = torch.device("cpu"), torch.nn.Linear(1, 1)
    model.weight.data.fill_(2)
    model.weight.grad = torch.tensor([[3.0]])
    with distributed.process_group(device) as mine:
        assert mine is device
        assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
        distributed.broadcast_parameters(model)
        distributed.sum_gradients(model)
        assert (model.weight.item(), model.weight.grad.item()) == (2, 3)
        assert distributed.total(torch.tensor(3.0)) == 3
        assert distributed.from_main(lambda: "news") == "news"
        distributed.barrier()


def test_a_program_becomes_a_torchrun_of_the_processes_that_the_environment_asks_for(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda path, command: started.append((path, command)))
    for asked in (None, "", "3"):
        monkeypatch.delenv("PILOT_PROCESSES", raising=False)
        if asked is not None:
            monkeypatch.setenv("PILOT_PROCESSES", asked)
        assert started == []
        distributed.launch("stages.counterfactual", ["--config", "params.yaml"])
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    program = ["-m", "stages.counterfactual", "--config", "params.yaml"]
    assert started == [(sys.executable, [sys.executable, *launcher, *program])]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "torchrun has started this one")
    distributed.launch("stages.counterfactual", [])
    assert len(started) == 1


@pytest.mark.parametrize("asked", ["0", "-2", "two", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, asked):
    monkeypatch.setenv("PILOT_PROCESSES", asked)
    with pytest.raises(PilotError, match=f"PILOT_PROCESSES={asked}: must be a number of processes, 1 or more"):
        distributed.launch("stages.counterfactual", [])


def test_two_processes_have_the_gradients_of_one(tmp_path):
    params = write_params(tmp_path / "params.yaml")
    process = _torchrun(__file__, "gradients", params, tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out == "0 of 2\n", "the main process alone prints"
    expected = gradients(params)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.pop("threads") == max(1, distributed._n_cores() // 2)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_training_goes_on_when_a_worker_is_killed(tmp_path, capsys):
    params = write_params(tmp_path / "params.yaml", train={"examples_per_epoch": 1000})
    assert generate.main(["--config", str(params), "--output-dir", str(tmp_path / "data")]) == 0
    files = ["--config", str(params), "--data-dir", str(tmp_path / "data"), "--device", "cpu", "--output-dir"]
    process = _torchrun("--max-restarts=1", "-m", "stages.train", *files, tmp_path / "two/out")
    while not (tmp_path / "two/.state/out.pt").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(psutil.Process(process.pid).children()[-1].pid, signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Resuming after epoch " in out
    assert out.count("\nepoch   3") == 1
    assert not (tmp_path / "two/.state").exists()

    assert train.main([*files, str(tmp_path / "one")]) == 0
    logs = [list(csv.DictReader((tmp_path / output / "training.csv").open())) for output in ("one", "two/out")]
    for one, two in zip(*logs, strict=True):
        assert (two["epoch"], two["examples"]) == (one["epoch"], one["examples"])
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=0.02)
    tests = [json.loads((tmp_path / output / "train.json").read_text())["test"] for output in ("one", "two/out")]
    assert tests[1]["paren"]["final_token"] == pytest.approx(tests[0]["paren"]["final_token"], abs=0.1)


@pytest.mark.parametrize("saved_by", [0, 1])
def test_processes_that_share_no_folder_start_from_the_main_process_s_state(tmp_path, saved_by):
    """As on two nodes with file systems of their own, one of which holds the state of an earlier run."""
    params = write_params(tmp_path / "params.yaml")
    folder = tmp_path / str(saved_by) / ".state"
    job = _run(params, tmp_path / str(saved_by) / "out")
    bucket = job.training._buckets[0]
    for _ in range(5):
        job.training._train_step(bucket, torch.device("cpu"))
    job.save()
    assert folder.is_dir()

    process = _torchrun(__file__, "resume", params, tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("Resuming after epoch 0, step 5") == (saved_by == 0)
    main, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert main["step"] == (5 if saved_by == 0 else 0)
    torch.testing.assert_close(other, main, rtol=0, atol=0)


def test_processes_with_other_data_are_refused(tmp_path):
    params = write_params(tmp_path / "params.yaml", train={"examples_per_epoch": 64, "num_epochs": 1})
    for rank, seed in enumerate((1, 2)):
        other = write_params(tmp_path / f"params_{rank}.yaml", data={"seed": seed})
        assert generate.main(["--config", str(other), "--output-dir", str(tmp_path / f"data_{rank}")]) == 0
    process = _torchrun(__file__, "train", params, tmp_path)
    _, err = process.communicate()
    assert process.returncode != 0
    assert "error: this process has other parameters, data or code than the main one" in err


def test_a_lost_process_is_said_in_one_line(tmp_path):
    process = _torchrun(__file__, "lose", tmp_path)
    process.communicate()
    assert process.returncode != 0
    (line,) = (tmp_path / "0.txt").read_text().splitlines()
    assert line.startswith("another process of the group has ended, or cannot be reached (")


def test_a_mistake_of_the_program_is_not_taken_for_a_lost_process():
    with pytest.raises(RuntimeError, match="gloo"), distributed.process_group(torch.device("cpu")):
        raise RuntimeError("this has nothing to do with gloo")


def _run(params: Path, output: Path) -> train._Run:
    """A training of two steps an epoch with its files in and beside `output`."""
    torch.manual_seed(int(os.environ.get("RANK", 0)))  # as if machines drew other weights
    model = PilotTransformer(ModelConfig(n_layers=2, n_heads=2, d_model=8, d_mlp=8, context=12))
    distributed.broadcast_parameters(model)
    buckets = [bucket for examples in BATCHES for bucket in buckets_by_length(examples)]
    training = Training(model, buckets, load_params(params).train)
    state = SavedState(output.parent / ".state" / f"{output.name}.pt", "key")
    return train._Run(training, state, Namespace(output_dir=output, metrics_dir=output))


def _on_one_of_two(job: str, *arguments: str) -> None:
    """What one of two processes under torchrun does for the tests above."""
    rank = int(os.environ["RANK"])
    folder = Path(arguments[-1])
    if job == "train":
        data, output = folder / f"data_{rank}", folder / f"out_{rank}"
        files = ["--config", arguments[0], "--data-dir", str(data), "--output-dir", str(output), "--device", "cpu"]
        raise SystemExit(train.main(files))
    with distributed.process_group(torch.device("cpu")):
        if job == "gradients":
            print(f"{rank} of {distributed.world_size()}")
            found = {**gradients(Path(arguments[0])), "threads": torch.get_num_threads()}
            torch.save(found, folder / f"{rank}.pt")
        elif job == "resume":
            run = _run(Path(arguments[0]), folder / str(rank) / "out")
            run.resume()
            torch.save({"step": run.training.step, **run.training.model.state_dict()}, folder / f"{rank}.pt")
        elif job == "lose":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which may come before the word is written
            distributed.barrier()
            if rank == 1:
                os._exit(1)
            try:
                distributed.barrier()
            except PilotError as error:
                (folder / "0.txt").write_text(str(error))
            raise SystemExit(1)


if __name__ == "__main__":
    _on_one_of_two(*sys.argv[1:])
