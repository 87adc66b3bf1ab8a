import csv
import json
import os

import numpy as np
import pytest
from scipy import stats

from pilot.experiments.planted.circuits import random_circuit
from pilot.experiments.planted.kinds import KINDS, WORDS
from pilot.experiments.planted.measurements import Rule, expected
from pilot.experiments.planted.scores import Setting, Tally, covered, judge_effect, judge_null, judge_placement, rate
from pilot.interventions import HeadPatch
from pilot.runtime.files import read_json
from stages import planted
from tests.support.project import write_params

SETTING = Setting(
    Rule(min_effect=0.1, min_interaction=0.02, level=0.05, resamples=3000), noise=0.3, set_pairs=60, population=500
)
UNEARNED = {("and", "sufficient"), ("and", "position"), ("or", "necessary")}


def test_a_tally_counts_heads():
    first, second, third = (HeadPatch(0, head) for head in range(3))
    assert Tally.of({"word": (second, third)}, {"word": (first, second)}, "word") == Tally(earned=2, right=1, false=1)


@pytest.mark.parametrize("kind", KINDS)
def test_on_many_pairs_heads_get_the_words_that_theory_says_and_no_others(kind):
    placements = [judge_placement(kind, (0, i), (30, 200), SETTING) for i in range(2)]
    for placement in placements:
        for word, tally in placement.tallies[200].items():
            assert (tally.right, tally.false) == (tally.earned, 0), word
            assert (tally.earned == 0) == ((kind, word) in UNEARNED or (word == "redundant" and kind != "or"))
        assert (placement.stability[200] is None) == (kind == "and")
    assert judge_placement(kind, (0, 0), (30, 200), SETTING) == placements[0]


def test_heads_at_the_edge_get_a_word_no_more_often_than_the_level_says():
    """Without the correction for all heads one of ten is called sufficient in 15 % of such circuits."""
    nulls = [judge_null("shared", (0, i), 30, SETTING) for i in range(20)]
    assert all(set(null) == {"sufficient", "necessary"} for null in nulls)
    for word in ("sufficient", "necessary"):
        mistaken = sum(null[word] for null in nulls)
        assert stats.binomtest(mistaken, 20, 0.05, alternative="greater").pvalue > 0.02, word


def test_heads_that_only_damage_are_not_called_sufficient_and_none_is_redundant():
    nulls = [judge_null("damage", (0, i), 30, SETTING) for i in range(20)]
    assert all(set(null) == {"sufficient", "redundant"} for null in nulls)
    for word in ("sufficient", "redundant"):
        mistaken = sum(null[word] for null in nulls)
        assert stats.binomtest(mistaken, 20, 0.05, alternative="greater").pvalue > 0.02, word


def test_intervals_cover_the_truth_that_their_population_has():
    result = covered("graded", (0,), (30, 80), 60, SETTING)
    assert set(result) == {"recovery", "shapley"}
    for by_size in result.values():
        assert {size: held.shape for size, held in by_size.items()} == {30: (60, 8), 80: (60, 8)}
        for held in by_size.values():
            assert 0.88 < held.mean() < 1


def test_large_effects_are_found_on_few_pairs_and_small_ones_are_not():
    weak, strong = ([judge_effect(size, (0, i), (10, 60), SETTING) for i in range(10)] for size in (0.15, 0.6))
    for word in ("sufficient", "necessary"):
        assert all(judged[word][60] for judged in strong)
        assert sum(judged[word][10] for judged in weak) <= 2
    assert rate([True, False]).value == 0.5


def test_what_is_expected_of_whole_heads_and_of_positions():
    circuit = random_circuit(KINDS["chain"], 2, 4, np.random.default_rng(0))
    words = expected(circuit, 0.1)
    assert words["position"] == circuit.heads
    assert words["sufficient"] == words["necessary"] == tuple(HeadPatch(p.layer, p.head) for p in circuit.heads)


TINY = {
    "placements": 1, "pairs": [20, 40], "nulls": 2, "null_pairs": 20, "simulations": 7, "coverage_pairs": [20],
    "population": 100, "power_effects": [0.15, 0.9], "power_pairs": [8, 20], "power_circuits": 2,
}  # fmt: skip


def run(tmp_path, processes: int) -> bytes:
    params = write_params(tmp_path / "params.yaml", planted=TINY)
    arguments = ["--config", str(params), "--metrics-dir", str(tmp_path), "--processes", str(processes)]
    assert planted.main(arguments) == 0
    return (tmp_path / "planted.json").read_bytes() + (tmp_path / "planted_power.csv").read_bytes()


def test_the_stage_writes_and_prints_what_was_found(tmp_path, capsys):
    first = run(tmp_path, 1)
    written = read_json(tmp_path / "planted.json", made_by="planted")
    assert {kind: set(by_size) for kind, by_size in written["circuits"].items()} == {k: {"20", "40"} for k in KINDS}
    counts = written["circuits"]["single"]["40"]["sufficient"]
    assert counts == {"earned": 1, "right": 1, "missed": 0, "false": 0, "exact": 1.0}
    assert set(written["stability"]) == set(KINDS) - {"and"}
    assert set(written["false_positives"]["shared"]["20"]) == {"sufficient", "necessary"}
    assert set(written["coverage"]["shapley"]["20"]) == {"value", "low", "high"}
    assert written["power"]["sufficient"]["0.9"] in (8, 20)
    json.dumps(written, allow_nan=False)
    with open(tmp_path / "planted_power.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["word", "effect", "pairs", "value", "low", "high"]
    assert len(rows) == 2 * 2 * 2
    printed = capsys.readouterr().out
    assert all(word in printed for word in WORDS)
    of_circuits = [line for line in printed.splitlines() if line.startswith(tuple(KINDS))]
    assert len(of_circuits) == 2 * len(KINDS) + 2  # two of a null
    assert run(tmp_path, 2) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placements": 0}, "params.yaml: planted.placements"),
        ({"pairs": []}, "params.yaml: planted.pairs"),
        ({"pairs": [1]}, "params.yaml: planted.pairs"),
        ({"power_effects": [1.5]}, "params.yaml: planted.power_effects"),
        ({"resamples": 200}, "200 resamples are too few to correct"),
    ],
)
def test_the_stage_refuses_numbers_that_are_out_of_range(changes, message, tmp_path, capsys):
    params = write_params(tmp_path / "params.yaml", planted=TINY | changes)
    assert planted.main(["--config", str(params), "--metrics-dir", str(tmp_path), "--processes", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "planted.json").exists()


def test_processes_compute_in_one_thread_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with planted._shared_work(1) as each:
        assert each("threads", os.getenv, [(name,) for name in planted.ONE_THREAD]) == ["1"] * 3
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_the_stage_refuses_no_processes(capsys):
    assert planted.main(["--processes", "0"]) == 2
    assert capsys.readouterr().err == "error: --processes 0: must be at least 1\n"
