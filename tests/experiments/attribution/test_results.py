"""Stage `attribution` of the language pipeline, on a tiny model and a file of pairs."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from ruamel.yaml import YAML
from support.project import ROOT
from support.tiny_language import save_language_model, tiny_pairs

from pilot.experiments.attribution.results import LanguageAttributionParams, hold_against_exact
from pilot.experiments.attribution.sets import additive
from pilot.experiments.effects import PairExperiment
from pilot.experiments.subsets import measure_subsets
from pilot.experiments.text_pairs import read_answered
from pilot.interventions import HeadPatch
from pilot.language.load import load_language_model, load_tokenizer
from pilot.language.pairs import write_text_pairs
from pilot.runtime.files import read_json
from pilot.sweep import SweepEngine
from stages.language import attribution, pairs, select

METHODS = ["atp_recipient", "ig_inputs_2", "mean_ablation"]
TINY = {"pairs": 4, "methods": METHODS, "top_k": 3, "resamples": 200, "set_pairs": 3, "budgets": [8], "repeats": 2}


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A folder with a model, its pairs and its players."""
    folder = tmp_path_factory.mktemp("task")
    save_language_model(folder / "model")
    write_text_pairs(folder / "drinks.jsonl", tiny_pairs())
    config = write_params(folder / "params.yaml")
    common = ["--config", config, "--model", folder / "model", "--device", "cpu"]
    made = ["--task", "drinks", "--pairs-dir", folder, "--output", folder / "pairs.jsonl"]
    assert run(pairs, *common, *made, "--numbers", folder / "pairs.json") == 0
    chosen = ["--pairs", folder / "pairs.jsonl", "--numbers", folder / "pairs.json", "--state-dir", folder / "state"]
    assert run(select, *common, *chosen, "--output", folder / "selection.json") == 0
    return folder


def write_params(path, **changes):
    """language/params.yaml with TINY, and `changes` of its sections, on top."""
    yaml = YAML()
    content = yaml.load(ROOT / "language" / "params.yaml")
    for section, values in {"select": {"players": 3, "resamples": 200}, "attribution": TINY}.items():
        content[section].update(values)
    for section, values in changes.items():
        content[section].update(values)
    yaml.dump(content, path)
    return path


def run(stage, *arguments) -> int:
    return stage.main([*map(str, arguments)])


def compare(folder, **changes) -> int:
    config = write_params(folder / "changed.yaml", **changes)
    files = ["--model", folder / "model", "--pairs", folder / "pairs.jsonl", "--metrics-dir", folder]
    return run(attribution, "--config", config, *files, "--device", "cpu")


def test_the_stage_holds_heads_and_sets_of_players_against_exact_patching(selected, capsys):
    assert compare(selected) == 0
    written = read_json(selected / "attribution.json", made_by="attribution")
    json.dumps(written, allow_nan=False)
    assert written["pairs"] == {"giver": 4}
    for direction in ("denoising", "noising"):
        assert list(written["heads"]["giver"][direction]) == [*METHODS, "exact"]
        assert set(written["sets"][direction]["predicted"]) == {*METHODS, "exact", "shapley"}
        assert written["heads"]["giver"][direction]["exact"]["error"]["value"] == 0
    with open(selected / "attribution.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 8
    assert all(float(row["error"]) == 0 for row in rows if row["method"] == "exact")
    assert "giver pairs, noising: 4 pairs, held against exact patching" in capsys.readouterr().out
    first = (selected / "attribution.json").read_bytes()
    assert compare(selected) == 0
    assert (selected / "attribution.json").read_bytes() == first


def test_sets_are_predicted_by_the_scores_of_their_own_heads(selected):
    model, tokenizer = load_language_model(selected / "model"), load_tokenizer(selected / "model")
    usable = read_answered(selected / "pairs.jsonl", selected / "pairs.json", model, tokenizer).usable
    engine, heads = SweepEngine(model, "reference"), (HeadPatch(1, 2), HeadPatch(0, 3), HeadPatch(1, 0))
    params = LanguageAttributionParams(**TINY | {"seed": 0})
    sets = hold_against_exact(engine, usable, "giver", heads, {}, params, 0.1).content["sets"]
    select = PairExperiment(engine, usable.need("giver", "select")[: params.set_pairs], "denoising")
    errors = additive(select.recovery([(head,) for head in heads])) - measure_subsets(select, heads).mean_recovery
    assert sets["denoising"]["predicted"]["exact"]["worst"]["value"] == pytest.approx(np.abs(errors).max(), abs=1e-5)


@pytest.mark.parametrize("changes", [{"counterfactual": {"exhaustive": False}}, {"select": {"players": 1}}])
def test_sets_are_left_out_where_they_are_off_and_where_there_is_one_player(changes, selected, tmp_path):
    for name in ("pairs.json", "selection.json"):
        (tmp_path / name).write_bytes((selected / name).read_bytes())
    if "select" in changes:
        selection = json.loads((tmp_path / "selection.json").read_text())
        selection["player"] = dict(list(selection["player"].items())[:1])
        (tmp_path / "selection.json").write_text(json.dumps(selection))
    config = write_params(tmp_path / "params.yaml", **changes)
    files = ["--model", selected / "model", "--pairs", selected / "pairs.jsonl", "--metrics-dir", tmp_path]
    assert run(attribution, "--config", config, *files, "--device", "cpu") == 0
    assert "sets" not in read_json(tmp_path / "attribution.json", made_by="attribution")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": []}, "changed.yaml: attribution.methods: "),
        ({"methods": ["atp"]}, "attribution.methods.0: atp is not a method; known, with M steps: atp_recipient, "),
        ({"methods": ["ig_inputs_0"]}, "attribution.methods.0: ig_inputs_0 is not a method"),
        ({"methods": ["exact"]}, "attribution.methods.0: exact is not a method"),
        ({"pairs": 1}, "changed.yaml: attribution.pairs: must be greater than or equal to 2, not 1"),
        ({"set_pairs": 5}, "changed.yaml: attribution: set_pairs must not be more than pairs, which is 4"),
        ({"steps": [1]}, "changed.yaml: attribution.steps is not a known key"),
    ],
)
def test_the_stage_refuses_parameters_in_one_line(changes, message, selected, capsys):
    assert compare(selected, attribution=changes) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_stage_refuses_players_of_another_model(selected, tmp_path, capsys):
    (tmp_path / "pairs.json").write_bytes((selected / "pairs.json").read_bytes())
    (tmp_path / "selection.json").write_text('{"player": {"L9H0": 1}, "stability": {}}')
    files = ["--model", selected / "model", "--pairs", selected / "pairs.jsonl", "--metrics-dir", tmp_path]
    assert run(attribution, "--config", selected / "params.yaml", *files, "--device", "cpu") == 2
    assert "selection.json: not the players of this model" in capsys.readouterr().err
