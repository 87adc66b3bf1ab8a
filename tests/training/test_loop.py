import contextlib
import csv
import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from support.project import write_params
from torch.utils._pytree import tree_leaves

from pilot.arithmetic.examples import Example, buckets_by_length
from pilot.arithmetic.vocabulary import decode
from pilot.models.checkpoint import read_checkpoint
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.reporting.params import load_params
from pilot.runtime.archive import pack, unpack
from pilot.runtime.files import write_bytes
from pilot.training.loop import Training, _batches, _optimizers, _Schedule
from stages import train

FILES = ("checkpoint_best.pt", "checkpoint_last.pt", "checkpoint_epoch_001.pt", "checkpoint_epoch_003.pt")


def test_a_pass_visits_every_example_once_in_batches_of_one_length():
    examples = [Example(f"{i}+{j}", str(i + j)) for i in range(10) for j in range(10)]
    buckets = buckets_by_length(examples)
    stream = _batches(buckets, batch_size=8, seed=0)
    passes = []
    for _ in range(2):
        seen = []
        while len(seen) < 100:
            batch = next(stream)
            assert len(batch) <= 8
            assert [examples[i].line for i in batch.index] == [decode(row) for row in batch.ids]
            seen += [tuple(row) for row in batch.ids.tolist()]
        assert len(set(seen)) == 100
        passes.append(seen)
    assert passes[0] != passes[1]


def test_the_schedule_rises_and_falls_to_zero():
    schedule = _Schedule(warmup_steps=3, total_steps=100)
    factors = [schedule(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.25)
    assert max(factors) == factors[3] == pytest.approx(0.97)
    assert factors[-1] == pytest.approx(0.01)
    assert all(a > b for a, b in pairwise(factors[3:]))


def test_the_optimisers_have_the_parameters_of_the_file(tmp_path):
    changes = {
        "muon_lr": 0.5,
        "muon_momentum": 0.25,
        "adamw_lr": 0.125,
        "adamw_betas": [0.5, 0.75],
        "weight_decay": 0.1,
    }
    params = load_params(write_params(tmp_path / "params.yaml", train=changes)).train
    model = PilotTransformer(ModelConfig(n_layers=1, n_heads=2, d_model=8, d_mlp=8, context=12))
    muon, adamw = (optimizer.param_groups[0] for optimizer in _optimizers(model, params))
    assert (muon["lr"], muon["momentum"], muon["weight_decay"]) == (0.5, 0.25, 0.1)
    assert (adamw["lr"], adamw["betas"], adamw["weight_decay"]) == (0.125, (0.5, 0.75), 0.1)


class _Killed(Exception):
    pass


@pytest.fixture
def start(tmp_path):
    """Three epochs of 7 steps of a small model, from a state or from the start: `start(state).run(save)`."""
    params = load_params(write_params(tmp_path / "params.yaml", train={"examples_per_epoch": 50, "batch_size": 8}))
    examples = [Example(f"{i}-({j}+1)", str(i - j - 1)) for i in range(10) for j in range(10)]
    val = {"flat": buckets_by_length([Example("1+1", "2")]), "paren": buckets_by_length(examples)}

    def start(state=None):
        torch.manual_seed(0)
        model = PilotTransformer(ModelConfig(n_layers=2, n_heads=2, d_model=8, d_mlp=8, context=12))
        training = Training(model, buckets_by_length(examples), params.train)
        if state is not None:
            training.load_state_dict(state)
        return SimpleNamespace(
            training=training, run=lambda save: training.run(val, lambda record: None, save, progress=False)
        )

    return start


def test_training_goes_on_from_any_step_to_the_same_bits(start, tmp_path, monkeypatch):
    monkeypatch.setattr("pilot.training.loop.SAVE_SECONDS", 0)

    def states(state=None, kill_at=None):
        """What is saved on the way from `state` to the step `kill_at` or the end; through a file, as in the stage."""
        saved = []
        job = start(state)

        def save():
            write_bytes(tmp_path / "state.pt", pack(job.training.state_dict()))
            saved.append(unpack(tmp_path / "state.pt"))
            if job.training.step == kill_at:
                raise _Killed

        with contextlib.suppress(_Killed):
            job.run(save)
        return saved

    whole = states()
    assert [state["step"] for state in whole] == list(range(1, 22))
    for steps in [(1,), (7,), (8, 13), (20,), (21,), (3, 4, 14)]:
        state = None
        for step in steps:
            state = states(state, kill_at=step)[-1]
        ended = (states(state) or [state])[-1]
        assert _without_seconds(ended) == _without_seconds(whole[-1])
        assert ended["seconds"] >= state["seconds"], "it counts over all runs"


def _without_seconds(state):
    """The state's values one after another; tensors as lists, so that == compares them bit for bit."""
    leaves = tree_leaves({**state, "log": [{**record, "seconds": 0} for record in state["log"]], "seconds": 0})
    return [leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def test_quick_epochs_are_saved_at_their_ends(start):
    job, steps = start(), []
    job.run(lambda: steps.append(job.training.step))
    assert steps == [7, 14, 21]


def test_training_learns_and_writes_what_it_promises(trained):
    for name in FILES:
        assert (trained.runs / name).is_file()
    with (trained.runs / "training.csv").open() as file:
        log = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in log] == [1, 2, 3]
    assert float(log[-1]["loss"]) < float(log[0]["loss"]) / 1.5
    best = max(log, key=lambda row: float(row["val_paren"]))
    assert read_checkpoint(trained.checkpoint)["metrics"]["val"]["paren"] == float(best["val_paren"])
    assert read_checkpoint(trained.runs / "checkpoint_last.pt")["epoch"] == 3
    test = json.loads((trained.runs / "train.json").read_text())["test"]
    assert set(test["flat"]) == set(test["paren"]) == {"exact_match", "last_digit", "final_token"}
    assert test["paren"]["final_token"] >= test["paren"]["exact_match"] > 0


def test_the_same_seed_gives_the_same_checkpoints_bit_for_bit(trained, tmp_path):
    arguments = ["--config", str(trained.params), "--data-dir", str(trained.data), "--output-dir", str(tmp_path)]
    assert train.main([*arguments, "--device", "cpu"]) == 0
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (trained.runs / name).read_bytes()
