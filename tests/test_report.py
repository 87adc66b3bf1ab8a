import numpy as np
import pytest
from matplotlib import pyplot as plt
from project import ROOT

from pilot.figures import ablation_figure, head_grid, repair_by_head_figure, repair_figure, training_figure
from pilot.params import load_params
from pilot.report import html_page, png


def rate(value: float) -> dict:
    return {"value": value, "low": value / 2, "high": min(1, 2 * value)}


HEADS = ["L0H0", "L0H1", "L1H0", "L1H1"]
IMPACT = {"flat": rate(0.01), "paren": rate(0.3), "paren_minus_flat": rate(0.29)}
BOTH = {"fixed": rate(0.1), "adopted": rate(0.05), "pairs": 40}
REPAIR = {name: {"right_to_wrong": BOTH, "wrong_to_wrong": BOTH} for name in [*HEADS, "top_k"]}
LOG = {"epoch": [1, 2], "val_flat": [0.1, 0.9], "val_paren": [0.05, 0.8], "loss": [2.0, 0.1]}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_head_grid_by_hand():
    grid = head_grid({"L0H0": 1, "L1H2": 6, "L0H1": 2})
    np.testing.assert_array_equal(grid, [[1, 2, np.nan], [np.nan, np.nan, 6]])


def test_pictures_show_the_numbers():
    figure = ablation_figure({method: dict.fromkeys(HEADS, IMPACT) for method in ("zero", "mean", "resample")})
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels[:3]] == [
        "zero: flat", "zero: parenthesised", "zero: parenthesised - flat",
    ]  # fmt: skip
    assert [text.get_text() for text in panels[1].texts] == ["30.0"] * 4
    figure = training_figure(LOG)
    assert figure.axes[0].lines[1].get_ydata().tolist() == [5, 80]


def test_a_control_without_pairs_leaves_a_gap_not_an_error():
    repair = {name: {"right_to_wrong": BOTH} for name in [*HEADS, "top_k"]}
    assert png(repair_by_head_figure(repair))
    figure = repair_figure(repair, {"top_k": "the 2 selected heads"})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["the 2 selected heads"]


def test_the_same_numbers_give_the_same_picture():
    assert png(training_figure(LOG)) == png(training_figure(LOG))


def test_the_page_says_what_was_measured():
    accuracy = {"exact_match": 0.91, "last_digit": 0.95, "final_token": 0.999}
    head = {"rank": 1, "impact": 0.3, "confirm_impact": 0.28, "selected": 1, "meets_threshold": 0}
    results = {
        "train": {"test": {"flat": accuracy, "paren": accuracy}, "best_epoch": 2, "seconds": 60.0},
        "ablation": {"impact": {"mean": dict.fromkeys(HEADS, IMPACT)}},
        "selection": {"n_selected_meeting_threshold": 0, "heads": {name: head for name in HEADS}},
        "patching": {
            "fused": 1, "examples": 100, "accuracy": 0.9, "wrong_answers": 10, "repair": REPAIR,
            "pairs": {"right_to_wrong": 40, "wrong_to_wrong": 40},
        },
    }  # fmt: skip
    figures = dict.fromkeys(("training", "ablation", "repair", "repair_by_head"), b"picture")
    page = html_page(results, figures, {"top_k": "the <2> heads"}, load_params(ROOT / "params.yaml"))
    for text in (
        "91.00%",
        "99.90%",
        "10.0% [5.0%, 20.0%]",
        "+30.0 [+15.0, +60.0]",
        "selected, below the threshold",
        "the fused operator",
        "there is no evidence",
    ):
        assert text in page
    assert "the &lt;2&gt; heads" in page
    assert "data:image/png;base64,cGljdHVyZQ==" in page
