import re

import pytest
import torch

from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import token_pairs
from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.experiments.pairs import UsablePairs, usable_pairs
from pilot.models.checkpoint import load_model
from pilot.sweep import SweepEngine


@pytest.fixture(scope="module")
def engine(trained):
    return SweepEngine(load_model(trained.checkpoint))


@pytest.fixture(scope="module")
def pairs(trained):
    return token_pairs(read_pairs(trained.data / "pilot_pairs.jsonl"))


def test_usable_pairs_are_right_on_both_sides_and_have_a_gap(engine, pairs):
    usable = usable_pairs(engine, pairs, 1.0)
    assert sum(count["drawn"] for by_split in usable.counts.values() for count in by_split.values()) == len(pairs)
    chosen = [pair for group in usable.groups.values() for pair in group]
    assert 0 < len(chosen) < len(pairs)
    for (edit, split), group in usable.groups.items():
        assert all((pair.edit, pair.split) == (edit, split) for pair in group)
        assert len(group) == usable.counts[edit][split]["usable"] <= usable.counts[edit][split]["both_right"]
    experiment = PairExperiment(engine, chosen, "noising")
    assert experiment.effects([()]).kept.all()
    assert experiment.gap.min() >= 1
    wider = usable_pairs(engine, pairs, 8.0)
    assert sum(map(len, wider.groups.values())) < len(chosen)


def test_all_that_is_drawn_is_counted_where_the_model_knows_nothing(pairs, small_model):
    torch.nn.init.zeros_(small_model.unembed.weight)
    fits = [pair for pair in pairs if pair.clean.seq_len <= 10 and pair.corrupt.seq_len <= 10]
    usable = usable_pairs(SweepEngine(small_model), fits, 1.0)
    assert not any(usable.groups.values())
    assert sum(count["drawn"] for by_split in usable.counts.values() for count in by_split.values()) == len(fits)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((0, 0, 0), "there are 0 regroup pairs of the select split, and the experiment needs at least 2: draw more"),
        ((1, 1, 1), "there are 1 regroup pairs of the select split"),
        ((9, 0, 0), "the model answers 0 of the 9 regroup pairs of the select split right on both sides"),
        ((9, 1, 1), "the model answers 1 of the 9 regroup pairs"),
        (
            (9, 5, 0),
            "0 of the 5 regroup pairs of the select split answered right have a logit difference gap",
        ),
        ((9, 5, 1), "1 of the 5 regroup pairs"),
    ],
)
def test_what_is_lacking_is_said(pairs, counts, message):
    numbers = dict(zip(("drawn", "both_right", "usable"), counts, strict=True))
    usable = UsablePairs({("regroup", "select"): pairs[: counts[-1]]}, {"regroup": {"select": numbers}}, 1.0)
    assert not usable.enough("regroup", "select")
    with pytest.raises(PilotError, match=re.escape(message)) as error:
        usable.need("regroup", "select")
    assert "\n" not in str(error.value)
    with pytest.raises(PilotError, match="there are 0 name pairs of the confirm split"):
        usable.need("name", "confirm")


def test_enough_pairs_are_handed_out(pairs):
    usable = UsablePairs({("regroup", "select"): pairs[:2]}, {}, 1.0)
    assert usable.need("regroup", "select") == pairs[:2]
