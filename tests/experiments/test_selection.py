import json

import pytest

from pilot.errors import PilotError
from pilot.experiments.selection import pipeline_targets, rank_heads, read_selection
from pilot.interventions import HeadPatch
from pilot.models.transformer import ModelConfig

CONFIG = ModelConfig(n_layers=2, n_heads=2, d_model=4)
RANKED = (HeadPatch(1, 0), HeadPatch(0, 1), HeadPatch(0, 0), HeadPatch(1, 1))


def selection(path, ranked=RANKED, k=1):
    heads = {head.name: {"rank": i + 1, "selected": int(i < k)} for i, head in enumerate(ranked)}
    path.write_text(json.dumps({"heads": dict(sorted(heads.items()))}))
    return path


def test_the_largest_impact_comes_first_and_among_equals_the_first_head():
    impact = {"L10H0": 0.1, "L2H1": 0.1, "L2H0": 0.1, "L0H0": 0.3}
    heads = rank_heads(impact, dict.fromkeys(impact, 0.2), top_k=2, min_impact=0.2)
    assert list(heads) == ["L0H0", "L2H0", "L2H1", "L10H0"]
    assert heads["L0H0"] == {"rank": 1, "impact": 0.3, "confirm_impact": 0.2, "selected": 1, "meets_threshold": 1}
    assert heads["L2H0"] == {"rank": 2, "impact": 0.1, "confirm_impact": 0.2, "selected": 1, "meets_threshold": 0}
    assert heads["L2H1"]["selected"] == 0


def test_heads_come_by_rank(tmp_path):
    assert read_selection(selection(tmp_path / "s.json", k=2), CONFIG) == (RANKED, 2)


@pytest.mark.parametrize("text", ["{}", '{"heads": []}', '{"heads": {"L0H0": {"rank": 1}}}'])
def test_a_file_of_another_stage_is_refused(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(PilotError, match=r"s\.json: not the select stage's results"):
        read_selection(tmp_path / "s.json", CONFIG)


def test_a_selection_for_another_model_is_refused(tmp_path):
    with pytest.raises(PilotError, match="ranks other heads than the model has"):
        read_selection(selection(tmp_path / "s.json", RANKED[:3]), CONFIG)


def test_targets_are_single_heads_the_selected_their_ranges_and_controls():
    targets = pipeline_targets(RANKED, 1, ["0:2", "2:"])
    assert list(targets) == ["L0H0", "L0H1", "L1H0", "L1H1", "top_k", "bottom_k", "top_k@0:2", "top_k@2:", "all_heads"]
    assert targets["top_k"] == (HeadPatch(1, 0),)
    assert targets["bottom_k"] == (HeadPatch(1, 1),)
    assert targets["top_k@2:"] == (HeadPatch(1, 0, 2, None),)
    assert targets["all_heads"] == tuple(sorted(RANKED))
    assert "bottom_k" not in pipeline_targets(RANKED, 3, [])  # only one other is left
