"""Training under torchrun: the same gradients as in one process, and the way on when a worker is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
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
from pilot.training.loop import Training
from stages import generate, train

# A last batch of one line leaves the second process without any.
BATCHES = [
    [Example("1+1", "2"), Example("9*9", "81"), Example("2-8", "-6"), Example("0*1", "0")],
    [Example("(1-2)-3", "-4")],
]


def gradients(params: Path) -> dict[str, torch.Tensor]:
    """Those of a small model after one batch with answers of different lengths, and one of a single line."""
    torch.manual_seed(0)
    model = PilotTransformer(ModelConfig(n_layers=2, n_heads=2, d_model=8, d_mlp=8, context=12))
    buckets = [bucket for examples in BATCHES for bucket in buckets_by_length(examples)]
    training = Training(model, buckets, load_params(params).train)
    training._optimizers = training._schedules = []  # so that gradients add up and weights stay
    forward = distributed.data_parallel(model)
    losses = [training._train_step(forward, bucket, torch.device("cpu")) for bucket in buckets]
    return {"losses": torch.tensor(losses), **{name: p.grad for name, p in model.named_parameters()}}


def _torchrun(*command: str) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *map(str, command)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_program_by_itself_is_a_group_of_one():
    device = torch.device("cpu")
    with distributed.process_group(device) as mine:
        assert mine is device
        assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
        model = torch.nn.Linear(1, 1)
        assert distributed.data_parallel(model) is model
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
    process = _torchrun(__file__, params, tmp_path)
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


if __name__ == "__main__":  # under torchrun: parameters, folder
    with distributed.process_group(torch.device("cpu")):
        print(f"{distributed.rank()} of {distributed.world_size()}")
        found = {**gradients(Path(sys.argv[1])), "threads": torch.get_num_threads()}
        torch.save(found, Path(sys.argv[2]) / f"{distributed.rank()}.pt")
