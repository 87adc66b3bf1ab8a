"""The experiment on a tiny language model that has learned one template."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support.tiny_language import save_language_model, tiny_pairs

from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.experiments.language import counterfactual, select_players
from pilot.experiments.memory import check_memory
from pilot.experiments.params import CounterfactualParams
from pilot.experiments.players import PlayersParams, choose_players, ranked, read_players
from pilot.experiments.text_examples import text_examples
from pilot.experiments.text_pairs import answered_pairs, rates, read_answered, token_labels
from pilot.experiments.verdicts import measure_targets
from pilot.inputs.pairs import DIRECTIONS
from pilot.interventions import single_heads
from pilot.language import load_tokenizer
from pilot.language.load import load_language_model
from pilot.language.pairs import write_text_pairs
from pilot.models import head_outputs, replaced
from pilot.runtime.files import write_json
from pilot.runtime.schema import load_section
from pilot.runtime.shards import Shards
from pilot.sweep import SweepEngine

RULE = CounterfactualParams(
    seed=0,
    resamples=400,
    min_logit_gap=0.5,
    random_sets=3,
    min_effect=0.1,
    min_interaction=0.02,
    level=0.05,
    tolerance=0.01,
    exhaustive=True,
    exhaustive_pairs=4,
)
CHOICE = PlayersParams(method="exact", min_recovery=0.05, miss_rate=0.05, seed=0, resamples=200, players=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_language_model(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_language_model(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def engine(model):
    return SweepEngine(model)


@pytest.fixture(scope="module")
def answered(model, tokenizer):
    return answered_pairs(model, tokenizer, tiny_pairs(), min_logit_gap=0.5)


@pytest.fixture
def shards(tmp_path):
    return Shards(tmp_path / "state", "key")


@pytest.fixture(scope="module")
def selection(engine, answered, tmp_path_factory):
    return select_players(engine, answered, CHOICE, Shards(tmp_path_factory.mktemp("state"), "key"))


def test_pairs_that_are_answered_right_are_kept_and_counted(answered, tokenizer):
    assert answered.text == tiny_pairs()
    assert answered.main_edit == "giver"
    whole = {"drawn": 6, "both_right": 6, "usable": 6}
    assert answered.numbers == {
        "drawn": 12,
        "left_out": {},
        "select": whole,
        "confirm": whole,
        "edits": {"giver": {"select": whole, "confirm": whole}},
        "min_logit_gap": 0.5,
        "accuracy": {"clean": 1.0, "corrupt": 1.0},
    }
    assert "right: 100.0% of the clean prompts, 100.0% of the corrupt ones" in rates(answered)


def test_pairs_that_cannot_be_patched_are_counted_and_said(model, tokenizer):
    short = dataclasses.replace(tiny_pairs()[0], corrupt="When John and Mary went to")
    counted = answered_pairs(model, tokenizer, [*tiny_pairs(), short], 0.5)
    assert counted.numbers["left_out"] == {"unequal_lengths": 1}
    assert "left out: 1, because its two prompts have different numbers of tokens" in rates(counted)
    message = "none of the 2 pairs can be patched: 2 because its two prompts have different numbers of tokens"
    with pytest.raises(PilotError, match=message):
        answered_pairs(model, tokenizer, [short, short], 0.5)
    long = dataclasses.replace(tiny_pairs()[0], clean=" a" * 40, corrupt=" the" * 40)
    with pytest.raises(PilotError, match="1 because it is longer than the model's context"):
        answered_pairs(model, tokenizer, [long], 0.5)


def test_where_no_pair_is_answered_right_the_rate_is_said_and_what_to_try(model, tokenizer):
    wrong = [
        dataclasses.replace(pair, clean_answer=pair.corrupt_answer, corrupt_answer=pair.clean_answer)
        for pair in tiny_pairs()
    ]
    with pytest.raises(PilotError, match=r"answers 0 of the 6 giver pairs .*0% of the clean prompts, .* its space"):
        answered_pairs(model, tokenizer, wrong, 0.5)


def test_answered_pairs_come_back(answered, model, tokenizer, tmp_path):
    pairs, numbers = tmp_path / "ioi/pairs.jsonl", tmp_path / "ioi/pairs.json"
    write_text_pairs(pairs, answered.text)
    write_json(numbers, answered.numbers)
    read = read_answered(pairs, numbers, model, tokenizer)
    assert (read.text, read.usable.counts) == (answered.text, answered.usable.counts)
    assert {group: list(members) for group, members in read.usable.groups.items()} == dict(answered.usable.groups)
    write_text_pairs(pairs, answered.text[1:])
    with pytest.raises(PilotError, match="are of different runs; run: dvc repro -f pairs@ioi"):
        read_answered(pairs, numbers, model, tokenizer)


def test_labels_are_tokens_or_placeholders(answered, tokenizer):
    labels = token_labels(answered.text, answered.usable.groups["giver", "select"] * 2, tokenizer)
    assert set(labels) == {
        (
            "When",
            " [Mary]",
            " and",
            " [John]",
            " went",
            " to",
            " the",
            " store",
            ",",
            " [John]",
            *[" gave", " a", " drink", " to"],
        )
    }


def test_players_are_the_heads_of_largest_magnitude(engine, answered, selection, tmp_path):
    pairs = answered.usable.need("giver", "select")
    recovery = {d: PairExperiment(engine, pairs, d).recovery(single_heads(engine.model)) for d in DIRECTIONS}
    order = np.argsort(-sum(np.abs(values) for values in recovery.values()))[:3]
    heads = [f"L{i // 4}H{i % 4}" for i in order]
    assert selection["player"] == {name: rank for rank, name in enumerate(heads, start=1)}
    for direction in DIRECTIONS:
        found = [row["value"] for row in selection["recovery"][direction].values()]
        np.testing.assert_allclose(found, recovery[direction], atol=1e-4)
        assert sum(selection["stability"][direction].values()) == pytest.approx(3)
    write_json(tmp_path / "ioi/selection.json", selection)
    players, stability = read_players(tmp_path / "ioi/selection.json", engine.model)
    assert players == ranked(selection)
    assert stability.keys() == set(DIRECTIONS)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method", "verify", r"params.yaml: select.method: must be 'exact' or 'attribution\+verify', not 'verify'"),
        ("min_recovery", 0.0, "params.yaml: select.min_recovery: must be greater than 0, not 0.0"),
        ("miss_rate", 1.0, "params.yaml: select.miss_rate: must be less than 1, not 1.0"),
    ],
)
def test_ways_to_choose_players_that_make_no_sense_are_refused(key, value, message, tmp_path):
    write_json(tmp_path / "params.yaml", {"select": CHOICE.model_dump() | {key: value}})
    with pytest.raises(PilotError, match=message):
        load_section(tmp_path / "params.yaml", "select", PlayersParams)


def test_too_many_players_are_refused(engine, answered):
    experiment = PairExperiment(engine, answered.usable.need("giver", "select"), "denoising")
    with pytest.raises(PilotError, match="9 players are too many: the model has 8 heads"):
        choose_players({"denoising": experiment}, CHOICE.model_copy(update={"players": 9}), None, 4)


@pytest.mark.parametrize("content", [{}, {"player": {"L9H0": 1}, "stability": {}}, {"player": 1}])
def test_players_of_another_model_are_refused(content, engine, tmp_path):
    write_json(tmp_path / "ioi/selection.json", content)
    with pytest.raises(PilotError, match=r"not the players of this model .*; run: dvc repro -f select@ioi"):
        read_players(tmp_path / "ioi/selection.json", engine.model)


def test_the_whole_experiment(engine, tokenizer, answered, selection, shards):
    players = ranked(selection)
    results = counterfactual(engine, tokenizer, answered, players, selection["stability"], RULE, shards)
    content = results.content
    assert list(content) == ["fused", "pairs", "effects", "verdict", "stability", "shapley"]
    experiment = PairExperiment(engine, answered.usable.need("giver", "confirm"), "noising")
    rows = content["effects"]["giver"]["noising"]
    assert list(rows) == [*(head.name for (head,) in single_heads(engine.model)), "top_k", "all_heads", "random_k"]
    whole = experiment.recovery([*single_heads(engine.model), players])
    np.testing.assert_allclose([row["recovery"]["value"] for row in list(rows.values())[:9]], whole, atol=1e-4)
    assert rows["all_heads"]["recovery"]["value"] == pytest.approx(1, abs=1e-4)
    assert {"redundant"} == {w for head in players for w in content["verdict"][head.name]} - {"sufficient", "necessary"}
    positions = results.tables["head_positions"]
    assert len(positions) == 2 * 8 * 14
    assert {row["pairs"] for row in positions} == {RULE.exhaustive_pairs}
    sets = {(row["direction"], row["set"], row["size"]): row for row in results.tables["best_sets"]}
    assert {key[1] for key in sets} == {"best", "single", "sum", "average"}
    for direction in DIRECTIONS:
        values = [row["value"] for row in content["shapley"][direction].values()]
        assert sum(values) == pytest.approx(sets[direction, "best", 3]["value"], abs=1e-4)
    again = counterfactual(engine, tokenizer, answered, players, selection["stability"], RULE, shards)
    assert (again.content, again.tables) == (content, results.tables), "from the shards of the first"


def test_targets_in_parts_have_the_measures_of_the_whole(engine, answered, shards):
    experiment = PairExperiment(engine, answered.usable.need("giver", "confirm"), "denoising")
    heads = tuple(head for (head,) in single_heads(engine.model))
    targets = {head.name: (head,) for head in heads} | {"all_heads": heads}
    whole = measure_targets(experiment, targets, RULE)
    assert len(experiment.wrong_donor()[0]) == len(experiment)
    parts = measure_targets(experiment, targets, RULE, shards, 4)
    for name, row in whole.items():
        assert parts[name].keys() == row.keys()
        for measure in ("recovery", "wrong_donor", "flip_rate"):
            assert parts[name][measure] == pytest.approx(row[measure], abs=1e-4)
        assert parts[name]["kl"] == pytest.approx(row["kl"], abs=1e-4)


def test_with_answers_of_one_token_kept_is_what_the_same_run_gives(engine, answered):
    experiment = PairExperiment(engine, answered.usable.need("giver", "confirm"), "denoising")
    heads = [*single_heads(engine.model), tuple(head for (head,) in single_heads(engine.model))]
    effects = experiment.effects(heads)
    for i, pair in enumerate(experiment.pairs):
        recipient, donor = (torch.tensor([prompt.ids]) for prompt in (pair.corrupt, pair.clean))
        z = head_outputs(engine.model, donor)
        for n, intervention in enumerate(heads):
            with torch.no_grad(), replaced(engine.model, intervention, z):
                given = int(engine.model(recipient).logits[0, -1].argmax())
            assert effects.kept[n, i] == (given == pair.corrupt.answer[0])
            assert effects.adopted[n, i] == (given == pair.clean.answer[0])
    assert effects.kept.any()
    assert effects.adopted.any()


def test_worked_examples(model, tokenizer, answered, engine, selection):
    players = ranked(selection)
    before = model.config._attn_implementation
    (first, last) = text_examples(model, tokenizer, answered, players, 2)
    assert model.config._attn_implementation == before
    confirm = [pair for pair in answered.text if pair.split == "confirm"]
    for example, pair in ((first, confirm[0]), (last, confirm[-1])):
        assert "".join(example["clean"]) == pair.clean
        assert (example["clean_answer"], example["corrupt_answer"]) == (pair.clean_answer, pair.corrupt_answer)
        assert [row["heads"] for row in example["patched"]] == 2 * [
            *(head.name for head in players),
            "+".join(head.name for head in players[:2]),
            "+".join(head.name for head in players),
        ]
        assert {row["answer"] for row in example["patched"]} <= {" Mary", " John", " Anna", " Tom"}
        assert set(example["attention"]) == {head.name for head in players}
        for rows in example["attention"].values():
            assert [len(row) for row in rows] == list(range(1, 15))
            assert all(sum(row) == pytest.approx(1, abs=0.01) for row in rows)
    experiment = PairExperiment(engine, answered.usable.need("giver", "confirm")[:1], "denoising")
    row = first["patched"][0]
    assert row["recovery"] == pytest.approx(experiment.recovery([players[:1]])[0], abs=1e-4)


def test_pairs_that_do_not_fit_into_memory_are_refused_before_the_system_ends_the_run():
    check_memory(10, 2**20, free=10 * 2**20)
    check_memory(1, 1)
    with pytest.raises(PilotError, match=r"3000 pairs need 2.9 GiB of memory, .* 1.0 GiB are free: 1024 pairs at"):
        check_memory(3000, 2**20, free=2**30)
