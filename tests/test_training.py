import csv
import json
from itertools import pairwise

import pytest
import torch

from pilot.checkpoint import read_checkpoint
from pilot.dataset import Example, buckets_by_length
from pilot.training import _batches, _Schedule
from stages import train

FILES = ("checkpoint_best.pt", "checkpoint_last.pt", "checkpoint_epoch_001.pt")


def test_a_pass_visits_every_example_once_in_batches_of_one_length():
    examples = [Example(f"{i}+{j}", str(i + j)) for i in range(10) for j in range(10)]
    buckets = buckets_by_length(examples)
    stream = _batches(buckets, 8, torch.Generator().manual_seed(0))
    passes = []
    for _ in range(2):
        seen = []
        while len(seen) < 100:
            inputs, targets, answer = next(stream)
            assert inputs.shape == targets.shape == answer.shape
            assert torch.equal(inputs[:, 1:], targets[:, :-1])
            seen += [tuple(row) for row in inputs.tolist()]
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
