from support.language_cases import write_language_metrics

from pilot.reporting.language.overview import overview
from pilot.reporting.language.results import read_results


def test_tasks_stand_side_by_side(tmp_path):
    for task, n_players in (("ioi", 3), ("agreement", 1)):
        write_language_metrics(tmp_path / task, n_players=n_players)
    compared, heads, layers = overview({task: read_results(tmp_path / task) for task in ("ioi", "agreement")})
    assert compared.table.header == ["", "ioi", "agreement"]
    measures = {row[0]: row[1:] for row in compared.table.rows}
    assert measures["accuracy"] == ["96%, 94%"] * 2
    assert measures["sufficient"] == ["L2H0 and L2H2", "L2H2"]
    assert measures["heads that recover half, denoising"][0] == "2 (L2H2+L2H0, 0.78)"
    assert measures["attribution patching misses most, noising"] == ["L0H0, -0.30 instead of -0.00"] * 2
    assert list(heads.plot.panels["denoising"]) == ["L1H1", "L2H0", "L2H2"]
    assert [round(mark.value, 3) for mark in heads.plot.panels["denoising"]["L2H0"].values()] == [0.28, 0.003]
    assert "players of more than one task: L2H2 (ioi and agreement)." in heads.text
    assert list(layers.plot.panels) == ["ioi, denoising", "ioi, noising", "agreement, denoising", "agreement, noising"]


def test_tasks_without_a_head_in_common(tmp_path):
    for task in ("ioi", "agreement"):
        write_language_metrics(tmp_path / task, n_players=1)
    results = {task: read_results(tmp_path / task) for task in ("ioi", "agreement")}
    results["agreement"].selection["player"] = {"L0H0": 1}
    assert "players of more than one task: none." in overview(results)[1].text
