"""The page as text, and as Chromium shows it: drawn whole, without an error or a request."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.browser import browse, needs_chromium, with_script
from support.project import ROOT
from support.report_cases import worked_examples, write_metrics

from pilot.reporting.findings import findings
from pilot.reporting.measurements import read_measurements
from pilot.reporting.page import html_page
from pilot.reporting.params import load_params

PROVENANCE = {"versions": {"Python": "3.x"}, "data": {"pilot_val.jsonl": "d41d8c"}}


def make_page(folder: Path, lacking: tuple[str, ...] = (), examples: dict | None = None) -> str:
    write_metrics(folder)
    for name in lacking:
        (folder / name).unlink()
    measured = read_measurements(folder)
    found = findings(measured)
    images = {finding.name: b"picture" for finding in found if finding.plot}
    examples = worked_examples() if examples is None else examples
    return html_page(measured, found, images, examples, load_params(ROOT / "params.yaml"), PROVENANCE)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return make_page(tmp_path_factory.mktemp("metrics"))


def test_the_page_says_what_was_measured(page):
    for text in (
        "97.0%", "L0H1 and L1H1", "Sufficient alone: L0H1 and L1H1. Necessary: L0H1.", "checkpoint analysed is <b>best",
        "84.7% [79.7%, 89.7%]", "selected, below the threshold", "the C++ operators", "d41d8c", "max_operand=9",
        "data:image/png;base64,cGljdHVyZQ==",
    ):  # fmt: skip
        assert text in re.sub(r"\s+", " ", page), text


def test_all_sets_of_heads_are_mentioned_where_they_were_patched(page, tmp_path):
    claim = "here all of them were patched"
    assert claim in page
    assert claim not in make_page(tmp_path, lacking=("counterfactual.json",))


def test_the_page_is_one_file_that_fits_a_mail(page):
    assert len(page.encode()) < 8e6
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in page


def test_the_same_results_give_the_same_page(page, tmp_path):
    assert make_page(tmp_path) == page


def test_text_is_escaped_wherever_it_stands(tmp_path):
    examples = worked_examples()
    examples["pairs"][0]["clean"]["expression"] = "</script><b>"
    page = make_page(tmp_path, examples=examples)
    assert "</script><b>" not in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert data["examples"]["pairs"][0]["clean"]["expression"] == "</script><b>"


def test_the_page_says_what_it_lacks(tmp_path):
    page = make_page(tmp_path, lacking=("counterfactual.json", "planted.json", "trajectory.csv"), examples={})
    for sentence in (
        "metrics/counterfactual.json is missing: run dvc repro counterfactual.",
        "metrics/planted.json is missing or of an older version: run dvc repro planted.",
        "metrics/trajectory.csv is missing",
        "There are no worked examples: run dvc repro examples.",
    ):
        assert sentence in page


@needs_chromium
@pytest.mark.parametrize("width", [1100, 500])
def test_a_browser_draws_every_figure_and_has_nothing_to_complain_about(page, tmp_path, width):
    script = """
      const count = (figure) => figure.querySelectorAll(".js-plotly-plot .main-svg:first-child").length;
      const figures = [...document.querySelectorAll("figure.drawn")];
      document.body.dataset.drawn = figures.map((figure) => `${figure.id}:${count(figure)}`);
      document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
    """
    elements, console = browse(with_script(page, script), tmp_path, f"--window-size={width},2000")
    assert console == []
    drawn = dict(entry.split(":") for entry in re.search(r'data-drawn="([^"]*)"', elements)[1].split(","))
    assert drawn == {
        "training": "1", "ablation_zero": "3", "ablation_mean": "3", "ablation_resample": "3", "recovery": "6",
        "sets": "2", "head_positions": "2", "shapley": "1", "interactions": "2", "best_sets": "2", "attribution": "4",
        "attribution_shapley": "2", "trajectory": "3",
        "repair_by_head": "2", "repair": "1", "power": "2",
    }  # fmt: skip
    assert int(re.search(r'data-overflow="(-?\d+)"', elements)[1]) <= 0


@needs_chromium
def test_a_page_that_asks_the_network_for_something_would_be_found_out(page, tmp_path):
    script = "new Image().src = 'https://example.invalid/pixel.png'"
    _, console = browse(with_script(page, script), tmp_path)
    assert any("example.invalid" in line for line in console)


@needs_chromium
def test_a_reader_works_through_an_example(page, tmp_path):
    script = """
      const choose = document.getElementById("pair");
      choose.value = "1"; choose.dispatchEvent(new Event("change"));
      document.querySelector("input[value=noising]").click();
      document.querySelector('[data-patched="L1H1"]').click();
    """
    elements, console = browse(with_script(page, script), tmp_path)
    assert console == []
    told = re.sub("<[^>]*>", "", re.search(r'id="told"[^>]*>(.*?)</p>', elements)[1])
    # Noising: the clean run is patched, with outputs of the corrupt one.
    assert told == (
        "The model answers 9-(4-1) with 6 (right) and the donor (9-4)-1 with 4 (right). With the output of L1H1 taken "
        "from the donor, it answers the first with 77: neither its own answer nor the donor's."
    )
    pressed = re.search(r'data-patched="(\w+)"[^>]*aria-pressed="true"', elements)[1]
    assert pressed == "L1H1"
    kinds = {key: kind for kind, key in re.findall(r'class="(\w+)"[^>]*data-patched="(\w+)"', elements)}
    assert kinds == {"L0H0": "own", "L0H1": "donor", "L1H0": "own", "L1H1": "other", "top_k": "donor"}
    assert "L1H1, recipient" in elements
    assert "L1H1, donor" in elements
    assert "L0H1, donor" not in elements


@needs_chromium
def test_without_results_the_page_still_works(tmp_path):
    names = ("counterfactual.json", "planted.json", "interactions.csv", "best_sets.csv", "head_positions.csv")
    made_by_attribution = ("attribution.json", "attribution.csv")
    page = make_page(
        tmp_path / "metrics", lacking=(*names, *made_by_attribution, "planted_power.csv", "trajectory.csv"), examples={}
    )
    elements, console = browse(page, tmp_path)
    assert console == []
    assert elements.count('<figure id="') == 26
    assert elements.count('class="drawn"') == 6
