"""The pages as text, and as Chromium shows them: drawn whole, labels apart, without an error or a request."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.browser import browse, needs_chromium, with_script
from support.language_cases import write_examples, write_language_metrics

from pilot.errors import PilotError
from pilot.reporting.language import Subject, write_overview, write_page

SUBJECT = Subject("tiny-llama", "indirect object identification", "Who was given it & who <gave> it?")
PROVENANCE = {"Model": {"SHA-256": "d41d8c", "licence": "Apache-2.0"}, "Parameters": {"seed": 1}}


def make_page(folder: Path, n_layers: int = 3, n_heads: int = 3, n_players: int = 3, examples: bool = True) -> str:
    write_language_metrics(folder, n_layers, n_heads, n_players)
    if examples:
        heads = json.loads((folder / "selection.json").read_text())["player"]
        write_examples(folder / "examples.json", list(heads))
    page = folder / "page.html"
    write_page(folder, folder / "examples.json", page, subject=SUBJECT, provenance=PROVENANCE)
    return page.read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return make_page(tmp_path_factory.mktemp("metrics"))


def test_the_page_says_what_was_measured(page):
    for text in (
        "Which attention heads does tiny-llama use for indirect object identification?",
        "Who was given it &amp; who &lt;gave&gt; it?",
        "<q>When Mary and John went to the store, John gave a drink to</q>",
        "Sufficient alone: L2H0 and L2H2.", "11 (unequal lengths)", "d41d8c", "Apache-2.0", "default-src 'none'",
    ):  # fmt: skip
        assert text in re.sub(r"\s+", " ", page), text
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=\"(?!data:)", page)


def test_the_same_results_give_the_same_page_and_pictures(page, tmp_path):
    assert make_page(tmp_path) == page
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    plots = "recovery players best_sets interactions head_positions attribution attribution_shapley summary"
    assert names == {f"{name}.png" for name in plots.split()}


def test_tokens_are_escaped_wherever_they_stand(tmp_path):
    write_language_metrics(tmp_path)
    write_examples(tmp_path / "examples.json", ["L2H2", "L2H0"])
    text = (tmp_path / "examples.json").read_text().replace("When", "</script><b>")
    (tmp_path / "examples.json").write_text(text)
    write_page(tmp_path, tmp_path / "examples.json", tmp_path / "page.html", subject=SUBJECT, provenance={})
    page = (tmp_path / "page.html").read_text()
    assert "</script><b>" not in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert data["examples"][0]["clean"][0] == "</script><b>"


def test_a_page_without_examples_says_so(tmp_path):
    assert "There are no worked examples of this run." in make_page(tmp_path, examples=False)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.json", None, "pairs.json: no such file"),
        ("best_sets.csv", None, "best_sets.csv"),
        ("selection.json", "{}", "results of another version"),
        ("head_positions.csv", "head,value\nL2H2,1\n", "results of another version"),
        ("examples.json", "[", "examples.json: not JSON"),
        ("examples.json", "{}", "examples.json: not a list of worked examples"),
        ("examples.json", '[{"text": 1}]', "examples.json: not a list of worked examples"),
    ],
)
def test_missing_and_damaged_files_are_named(tmp_path, name, content, message):
    write_language_metrics(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(PilotError, match=message):
        write_page(tmp_path, tmp_path / "examples.json", tmp_path / "page.html", subject=SUBJECT, provenance={})
    assert not (tmp_path / "page.html").exists()


# What a chart's axis says, label by label, and how many labels lie on others.
COLLISIONS = """
  const figures = [...document.querySelectorAll("figure.drawn, #patterns")];
  const axes = figures.flatMap((figure) => [...figure.querySelectorAll(".xaxislayer-above, .yaxislayer-above")]);
  const collisions = axes.flatMap((axis) => {
    const boxes = [...axis.querySelectorAll("text")].map((label) => label.getBoundingClientRect());
    return boxes.filter((a, i) => boxes.slice(i + 1).some((b) =>
      a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1));
  });
  document.body.dataset.labels = axes.reduce((sum, axis) => sum + axis.querySelectorAll("text").length, 0);
  document.body.dataset.collisions = collisions.length;
  document.body.dataset.drawn = document.querySelectorAll(".js-plotly-plot .main-svg:first-child").length;
  document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
"""


def seen(elements: str) -> dict[str, int]:
    names = ("labels", "collisions", "drawn", "overflow")
    return {name: int(re.search(rf'data-{name}="(-?\d+)"', elements)[1]) for name in names}


@needs_chromium
@pytest.mark.parametrize(("n_layers", "n_heads"), [(30, 9), (32, 32)])
@pytest.mark.parametrize("width", [1280, 600])
def test_a_browser_draws_every_chart_and_labels_stay_apart(tmp_path, n_layers, n_heads, width):
    page = make_page(tmp_path, n_layers, n_heads, 12)
    script = f"setTimeout(() => {{ {COLLISIONS} }}, 4000);"
    elements, console = browse(with_script(page, script), tmp_path, f"--window-size={width},2000")
    assert console == []
    found = seen(elements)
    assert found["labels"] > 200
    assert found | {"labels": 0} == {"labels": 0, "collisions": 0, "drawn": 15, "overflow": found["overflow"]}
    assert found["overflow"] <= 0


@needs_chromium
def test_a_reader_works_through_an_example(page, tmp_path):
    script = """
      const head = document.getElementById("head");
      document.querySelector("input[value=noising]").click();
      head.value = "L2H0"; head.dispatchEvent(new Event("change"));
      document.getElementById("text").children[5].click();
    """
    elements, console = browse(with_script(page, script), tmp_path)
    assert console == []
    tokens = re.search(r'<div id="text".*?</div>', elements)[0]
    pressed = re.search(r'aria-pressed="true" aria-label="([^"]*)"', tokens)[1]
    assert pressed == "to, position 5: 2% of the attention"  # it attends to position (5 + 3) mod 6, below
    assert "and, position 2: 92% of the attention" in tokens
    assert "L2H0, all positions" in elements
    patched = re.search(r'<table id="patched">.*?</table>', elements)[0]
    cells = [re.findall(r">([^<]+)<", row) for row in re.findall("<tr>(.*?)</tr>", patched)]
    assert cells[1:] == [
        ["L2H2", "-0.50", "0.42", "John"],
        ["L2H2, L2H0", "2.80", "0.83", "Mary"],
        ["L2H2, L2H0, … L0H0 (4 heads)", "3.00", "0.90", "Mary"],
    ]
    assert re.sub("<[^>]*>", "", re.search(r'id="sides">(.*?)</p>', elements)[1]) == (
        "Clean: When Mary and John went to the store, John gave a drink to → Mary"
        "Corrupt: When Mary and John went to the store, Mary gave a drink to → John"
    )


@needs_chromium
def test_the_overview_is_drawn(tmp_path):
    folders = {task: tmp_path / task for task in ("ioi", "agreement")}
    for folder in folders.values():
        write_language_metrics(folder, 30, 9, 12)
    subjects = {Subject("tiny-llama", task): folder for task, folder in folders.items()}
    write_overview(subjects, tmp_path / "figures", tmp_path / "overview.html", provenance=PROVENANCE)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"heads_by_task.png", "layers.png"}
    page = (tmp_path / "overview.html").read_text()
    assert "Which attention heads does tiny-llama use for which task?" in page
    script = f"setTimeout(() => {{ {COLLISIONS} }}, 4000);"
    elements, console = browse(with_script(page, script), tmp_path, "--window-size=600,2000")
    assert console == []
    found = seen(elements)
    assert (found["collisions"], found["drawn"]) == (0, 6)
    assert found["overflow"] <= 0
