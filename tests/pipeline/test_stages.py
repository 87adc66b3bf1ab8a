"""The commands as a user meets them: what they print, write and refuse."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from support.project import write_params

from pilot.arithmetic.examples import buckets_by_length, read_examples, write_examples
from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.sampling import draw_pairs
from pilot.arithmetic.scoring import score_model
from pilot.experiments.counterfactual import TABLES
from pilot.models.checkpoint import load_model, save_model
from pilot.models.transformer import PilotTransformer
from pilot.reporting.params import load_params
from stages import ablate, counterfactual, examples, generate, patch, report, select_heads, train


@pytest.fixture
def workspace(trained, tmp_path, monkeypatch):
    """A folder of its own with the trained run in the default places."""
    shutil.copy(trained.params, tmp_path)
    shutil.copytree(trained.data, tmp_path / "data")
    shutil.copytree(trained.runs, tmp_path / "runs" / "pilot")
    monkeypatch.chdir(tmp_path)
    return tmp_path


CHECKPOINT = ["--checkpoint", "runs/pilot/checkpoint_best.pt", "--device", "cpu"]


def refused(capsys, main, argv, *parts) -> None:
    """`main(argv)` ends with status 2 and one line on standard error that holds all `parts`."""
    capsys.readouterr()
    try:
        status = main(argv)
    except SystemExit as exit_:  # argparse
        status = exit_.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1, error
    for part in parts:
        assert part in error


@pytest.fixture
def analysed(workspace):
    assert ablate.main(CHECKPOINT) == 0
    assert select_heads.main([]) == 0
    assert patch.main(CHECKPOINT) == 0
    return workspace


def test_the_analysis_from_checkpoint_to_report(analysed, capsys):
    ablation = json.loads((analysed / "metrics/ablation.json").read_text())
    heads = {f"L{i}H{j}" for i in range(3) for j in range(3)}
    for method in ("zero", "mean", "resample"):
        assert set(ablation["impact"][method]) == heads
        for estimates in ablation["impact"][method].values():
            assert estimates["paren_minus_flat"]["value"] == pytest.approx(
                estimates["paren"]["value"] - estimates["flat"]["value"], abs=2e-6
            )
            assert all(e["low"] <= e["value"] <= e["high"] for e in estimates.values())

    selection = json.loads((analysed / "metrics/selection.json").read_text())
    ranked = sorted(selection["heads"].values(), key=lambda head: head["rank"])
    assert [head["selected"] for head in ranked] == [1, 1] + [0] * 7
    impacts = [head["impact"] for head in ranked]
    assert impacts == sorted(impacts, reverse=True)
    assert all(head["meets_threshold"] == (head["impact"] >= 0.05) for head in ranked)

    patching = json.loads((analysed / "metrics/patching.json").read_text())
    assert heads | {"top_k", "bottom_k", "all_heads", "top_k@0:6"} <= set(patching["repair"])

    shutil.copy("runs/pilot/training.csv", "metrics")
    shutil.copy("runs/pilot/train.json", "metrics")
    assert examples.main(CHECKPOINT) == 0
    assert report.main([]) == 0
    page = (analysed / "runs/report.html").read_text()
    assert report.main([]) == 0
    assert (analysed / "runs/report.html").read_text() == page  # the same results give the same page
    assert str(analysed) not in page
    for name in ("training", "ablation_mean", "repair", "repair_by_head"):
        assert (analysed / f"metrics/figures/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (analysed / "metrics/heads.csv").read_text().startswith("layer,head,measure,value\n0,0,")


def test_worked_examples_need_pairs_and_a_selection(analysed, capsys):
    lines = (analysed / "data/pilot_pairs.jsonl").read_text().splitlines(keepends=True)
    (analysed / "data/pilot_pairs.jsonl").write_text("".join(line for line in lines if '"select"' in line))
    refused(capsys, examples.main, CHECKPOINT, "holds no regroup pairs of the confirm split")
    (analysed / "data/pilot_pairs.jsonl").write_text("".join(lines))
    (analysed / "metrics/selection.json").write_text('{"heads": {}}')
    refused(capsys, examples.main, CHECKPOINT, "selection.json: ranks other heads than the model has")
    shutil.copy("runs/pilot/training.csv", "metrics")
    shutil.copy("runs/pilot/train.json", "metrics")
    (analysed / "runs/examples.json").write_text('{"pairs": []}')
    refused(capsys, report.main, [], "examples.json: not made by the stage examples; make it")


def test_metrics_hold_only_what_dvc_keeps(analysed):
    def check(value):
        assert isinstance(value, (dict, int, float))
        for child in value.values() if isinstance(value, dict) else ():
            check(child)

    for name in ("ablation", "selection", "patching"):
        check(json.loads((analysed / f"metrics/{name}.json").read_text()))


def test_equal_impacts_are_ranked_by_layer_then_head(workspace):
    equal = {f"L{i}H{j}": {"paren": {"value": 0.1}} for i in (10, 2) for j in (1, 0)}
    results = {"select_half": {"mean": equal}, "confirm_half": {"mean": equal}}
    (workspace / "ablation.json").write_text(json.dumps(results))
    assert select_heads.main(["--ablation", "ablation.json", "--output", "selection.json"]) == 0
    heads = json.loads((workspace / "selection.json").read_text())["heads"]
    assert list(heads) == ["L2H0", "L2H1", "L10H0", "L10H1"]


def test_the_guides_console_output(workspace, capsys):
    assert patch.main([*CHECKPOINT, "--layer", "1", "--head", "2", "--control-head", "0", "--half", "all"]) == 0
    out = capsys.readouterr().out
    parts = [
        "=" * 60 + "\nActivation Patching Experiment\n" + "=" * 60,
        "Target: Layer 1, Head 2\nCheckpoint: runs/pilot/checkpoint_best.pt\nDevice: cpu\n\nModel loaded: 0.0",
        "Finding examples...\nGood example: ",
        "EXPERIMENT 1: Patch L1-H2 from correct to incorrect example",
        "[OK]\nBad example (no patch): ",
        "[WRONG]\nBad example (patched):  ",
        "CONTROL 1: Patch L1-H0 instead",
        "CONTROL 2: Patch L1-H2 from incorrect to incorrect example",
        "Other bad example prediction: ",
        "SUMMARY",
        "OVER ALL PAIRS",
        "\nL1H2 ",
        "\ncontrol L1H0 ",
        "\ncontrol L1H1 ",
    ]
    positions = [out.index(part) for part in parts]
    assert positions == sorted(positions)
    assert sum(out.count(verdict) for verdict in ("[SUCCESS]", "[PARTIAL]", "[NO EFFECT]")) == 1
    assert not (workspace / "metrics").exists(), "an experiment of the user's own writes nothing unasked"


def test_several_heads_at_some_positions(workspace, capsys):
    options = ["--heads", "0.1,2.2", "--positions", "2:5", "--output", "mine.json"]
    assert patch.main([*CHECKPOINT, *options]) == 0
    assert "Patch L0-H1 + L2-H2 at positions 2:5 from correct" in capsys.readouterr().out
    assert set(json.loads((workspace / "mine.json").read_text())["repair"]) == {
        "L0H1@2:5+L2H2@2:5",
        "control L0H2@2:5+L2H0@2:5",
    }


def test_the_final_token_is_a_metric_too(workspace, capsys):
    examples = read_examples("data/pilot_test_paren.jsonl")
    model = load_model("runs/pilot/checkpoint_epoch_001.pt")
    scores = score_model(model, buckets_by_length(examples))
    assert scores.final_token.float().mean() >= scores.exact_match.float().mean()
    options = ["--metric", "final_token", "--layer", "0", "--head", "0"]
    if scores.final_token.all():
        refused(capsys, patch.main, [*CHECKPOINT, *options], "final_token is 100.0%")
    else:
        assert patch.main(["--checkpoint", "runs/pilot/checkpoint_epoch_001.pt", "--half", "all", *options]) == 0


def _one_wrong(count_wrong: int) -> None:
    """Leave the test file with the right answers and only so many wrong ones."""
    examples = read_examples("data/pilot_test_paren.jsonl")
    correct = score_model(load_model(CHECKPOINT[1]), buckets_by_length(examples)).exact_match.numpy()
    wrong = np.flatnonzero(~correct)[:count_wrong]
    write_examples("data/few.jsonl", [examples[i] for i in [*np.flatnonzero(correct), *wrong]])


def test_without_a_second_wrong_example_control_2_is_left_out(workspace, capsys):
    _one_wrong(1)
    options = ["--test-path", "data/few.jsonl", "--layer", "0", "--head", "0", "--half", "all"]
    assert patch.main([*CHECKPOINT, *options]) == 0
    out = capsys.readouterr().out
    assert "No second incorrect example" in out
    assert "Control 2, wrong -> wrong:   left out" in out
    assert "no pairs" in out


def test_no_right_or_no_wrong_example_is_said_with_the_accuracy(workspace, capsys):
    _one_wrong(0)
    refused(
        capsys,
        patch.main,
        [*CHECKPOINT, "--test-path", "data/few.jsonl", "--layer", "0", "--head", "0"],
        "Could not find an incorrectly predicted example (exact_match is 100.0%",
    )
    torch.manual_seed(0)
    save_model(PilotTransformer(load_model(CHECKPOINT[1]).config), "untrained.pt")
    refused(
        capsys,
        patch.main,
        ["--checkpoint", "untrained.pt", "--layer", "0", "--head", "0"],
        "Could not find a correctly predicted example (exact_match is 0.0%",
        "train longer",
    )


def test_an_untrained_checkpoint_has_heads_to_ablate_but_no_pairs_to_patch(workspace, capsys):
    torch.manual_seed(0)
    save_model(PilotTransformer(load_model(CHECKPOINT[1]).config), "untrained.pt")
    untrained = ["--checkpoint", "untrained.pt", "--device", "cpu"]
    assert ablate.main(untrained) == 0
    assert select_heads.main([]) == 0
    refused(
        capsys,
        counterfactual.main,
        untrained,
        "the model answers 0 of the 8 regroup pairs of the select split right on both sides",
        "analyse a checkpoint that has learned the task",
    )
    assert not (workspace / "metrics/counterfactual.json").exists()
    assert patch.main(untrained) == 0
    assert (
        "Nothing to tell. Could not find a correctly predicted example (exact_match is 0.0%" in capsys.readouterr().out
    )
    results = json.loads((workspace / "metrics/patching.json").read_text())
    assert results["accuracy"] == 0 == results["pairs"]["right_to_wrong"]
    assert results["repair"] == {}


def _keep_pairs(workspace, keep) -> None:
    """Leave in the pairs' file the lines that `keep` is true of."""
    path = workspace / "data/pilot_pairs.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if keep(json.loads(line))))


def test_counterfactual_refuses_too_few_pairs_and_writes_nothing(analysed, capsys):
    written = sorted((analysed / "metrics").iterdir())
    write_params(analysed / "params.yaml", counterfactual={"min_logit_gap": 999.0})
    refused(capsys, counterfactual.main, CHECKPOINT, "regroup pairs of the select split", "difference gap of 999")
    write_params(analysed / "params.yaml")
    _keep_pairs(analysed, lambda pair: pair["split"] == "select" or pair["edit"] != "regroup")
    refused(capsys, counterfactual.main, CHECKPOINT, "there are 0 regroup pairs of the confirm split", "draw more")
    _keep_pairs(analysed, lambda pair: pair["edit"] != "regroup")
    refused(capsys, counterfactual.main, CHECKPOINT, "there are 0 regroup pairs of the select split")
    lines = (analysed / "data/pilot_pairs.jsonl").read_text().splitlines(keepends=True)
    (analysed / "data/pilot_pairs.jsonl").write_text(lines[0])
    refused(capsys, counterfactual.main, CHECKPOINT, "there are 0 regroup pairs of the select split")
    assert sorted((analysed / "metrics").iterdir()) == written


def test_a_diverged_model_is_refused_and_nothing_written(analysed, capsys):
    written = sorted((analysed / "metrics").iterdir())
    model = load_model(CHECKPOINT[1])
    model.ln_final.weight.data[0] = torch.nan
    save_model(model, "diverged.pt")
    diverged = ["--checkpoint", "diverged.pt", "--device", "cpu"]
    refused(capsys, counterfactual.main, diverged, "not finite")
    assert sorted((analysed / "metrics").iterdir()) == written


def test_without_every_set_of_heads_the_tables_of_sets_have_no_rows(analysed):
    write_params(analysed / "params.yaml", counterfactual={"exhaustive": False})
    assert counterfactual.main(CHECKPOINT) == 0
    lines = {name: len((analysed / f"metrics/{name}.csv").read_text().splitlines()) for name in TABLES}
    assert lines["interactions"] == lines["best_sets"] == 1
    assert lines["head_positions"] > 9
    results = json.loads((analysed / "metrics/counterfactual.json").read_text())
    assert set(results) == {"fused", "pairs", "effects", "verdict", "stability"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "9", "--head", "0"], "layer 9 does not exist: the model has layers 0 to 2"),
        (["--layer", "0", "--head", "3"], "head 3 does not exist: the model has heads 0 to 2"),
        (["--layer", "0", "--head", "0", "--control-head", "7"], "head 7 does not exist"),
        (["--layer", "0", "--head", "1", "--control-head", "1"], "--control-head 1 is the target itself"),
        (["--layer", "0"], "--layer and --head go together"),
        (["--control-head", "1"], "--control-head goes with --layer and --head"),
        (["--layer", "0", "--head", "0", "--heads", "1.1"], "not both"),
        (["--heads", "1,1"], "is not of the form LAYER.HEAD"),
        (["--layer", "0", "--head", "0", "--positions", "5:99"], "positions 5:99 are outside the sequence"),
        (["--layer", "0", "--head", "0", "--positions", "9"], "not of the form START:STOP"),
        (["--metric", "luck"], "invalid choice: 'luck'"),
        (["--device", "tpu"], "--device tpu: not a device"),
        (["--checkpoint", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
        (["--test-path", "empty.jsonl"], "empty.jsonl: holds no examples"),
        (["--test-path", "bad.jsonl"], "bad.jsonl:1: 1+1 is 2, not 3"),
        (["--test-path", "long.jsonl"], "long.jsonl:1: 1+1+1+1+1+1+1+1+1+1=10 is 23 tokens long"),
        (["--selection", "nowhere.json"], "nowhere.json: no such file; the stage that makes it: dvc repro select"),
        (["--selection", "other.json"], "other.json: not the select stage's results"),
        (["--selection", "broken.json"], "broken.json:1: not JSON"),
    ],
)
def test_patch_refuses_bad_input(workspace, capsys, options, message):
    (workspace / "empty.jsonl").write_text("")
    (workspace / "bad.jsonl").write_text('{"expression": "1+1", "result": "3"}\n')
    (workspace / "long.jsonl").write_text('{"expression": "1+1+1+1+1+1+1+1+1+1", "result": "10"}\n')
    (workspace / "other.json").write_text("{}")
    (workspace / "broken.json").write_text("{")
    refused(capsys, patch.main, [*CHECKPOINT, *options], message)
    assert not (workspace / "metrics").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("main", [patch.main, ablate.main])
def test_cuda_without_cuda_is_refused(workspace, capsys, main):
    refused(
        capsys, main, [*CHECKPOINT, "--device", "cuda"], "--device cuda: PyTorch finds 0 CUDA devices; use --device cpu"
    )


def test_ablate_refuses_bad_input_and_writes_nothing(workspace, capsys):
    refused(capsys, ablate.main, [], "required: --checkpoint")
    refused(capsys, ablate.main, ["--checkpoint", "nowhere.pt"], "nowhere.pt: no such checkpoint")
    (workspace / "data/pilot_test_flat.jsonl").write_text("\n")
    refused(capsys, ablate.main, CHECKPOINT, "pilot_test_flat.jsonl: holds no examples")
    assert not (workspace / "metrics").exists()


def test_train_refuses_bad_input_and_writes_nothing(workspace, capsys):
    out = ["--output-dir", "out"]
    refused(capsys, train.main, ["--config", "nowhere.yaml", *out], "nowhere.yaml: no such file")
    lines = (workspace / "data/pilot_train.jsonl").read_text().splitlines()
    (workspace / "data/pilot_train.jsonl").write_text("\n".join([*lines[:4], '{"expression": "1+1"}']))
    refused(capsys, train.main, out, "pilot_train.jsonl:5: want an object")
    (workspace / "data/pilot_train.jsonl").write_text("\n".join(lines))
    (workspace / "data/pilot_val.jsonl").write_text('{"expression": "1+1", "result": "2"}\n')
    refused(capsys, train.main, out, "pilot_val.jsonl: holds no paren expressions")
    write_params(workspace / "params.yaml", model={"n_heads": 5})
    refused(capsys, train.main, out, "model.d_model (48) must be a multiple of model.n_heads (5)")
    assert not (workspace / "out").exists()


def test_generate_refuses_a_grammar_that_is_too_small(workspace, capsys):
    write_params(workspace / "params.yaml", data={"max_operand": 1, "operators": "+"})
    refused(capsys, generate.main, ["--output-dir", "new"], "too few to fill train, val and test")
    assert not (workspace / "new").exists()


def test_generate_writes_the_pairs_that_the_parameters_draw(workspace):
    assert read_pairs("data/pilot_pairs.jsonl") == draw_pairs(load_params().data)


def test_the_same_seed_gives_the_same_data_bytes(workspace):
    assert generate.main(["--output-dir", "again"]) == 0
    assert len(list((workspace / "again").iterdir())) == 5
    for path in (workspace / "again").iterdir():
        assert path.read_bytes() == (workspace / "data" / path.name).read_bytes()


def test_select_and_report_refuse_damaged_results(workspace, capsys):
    refused(capsys, select_heads.main, [], "ablation.json: no such file; the stage that makes it: dvc repro ablate")
    (workspace / "metrics").mkdir()
    (workspace / "metrics/ablation.json").write_text('{"select_half": {}}')
    refused(capsys, select_heads.main, [], "ablation.json: not the ablation stage's results")
    for name in ("train", "selection", "patching"):
        (workspace / f"metrics/{name}.json").write_text("{}")
    (workspace / "metrics/training.csv").write_text("epoch\n1\n")
    refused(capsys, report.main, [], "results of another version, or damaged")
    assert not (workspace / "runs/report.html").exists()
    write_params(workspace / "params.yaml", select={"top_k": 99})
    (workspace / "metrics/ablation.json").write_text(
        json.dumps({half: {"mean": {"L0H0": {"paren": {"value": 0}}}} for half in ("select_half", "confirm_half")})
    )
    refused(capsys, select_heads.main, [], "select.top_k is 99, but the model has 1 heads")


def test_ctrl_c_ends_in_a_word(workspace, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ablate, "load_model", interrupted)
    assert ablate.main(CHECKPOINT) == 130
    assert capsys.readouterr().err == "interrupted\n"
