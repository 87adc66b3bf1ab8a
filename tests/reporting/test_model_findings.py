import pytest
from support.report_cases import write_metrics

from pilot.reporting.model_findings import by_layer, listed, mark, model_exhibits
from pilot.reporting.plot import Mark
from pilot.reporting.results import read_results


@pytest.fixture
def results(tmp_path):
    write_metrics(tmp_path)
    return read_results(tmp_path)


def exhibits(results) -> dict:
    return {exhibit.name: exhibit for exhibit in model_exhibits(results)}


def test_heads_stand_by_layer():
    marks = {"L0H0": Mark(1), "L1H2": Mark(6), "L0H1": Mark(2)}
    assert by_layer(marks) == {"L0": {"H0": Mark(1), "H1": Mark(2)}, "L1": {"H2": Mark(6)}}


def test_a_mark_is_a_rate_in_another_unit():
    assert mark({"value": 0.5, "low": 0.25, "high": 1.0}, 100) == Mark(50, 25, 100)


def test_words_are_listed_as_in_a_sentence():
    assert [listed("abc"), listed("ab"), listed("a"), listed("")] == ["a, b and c", "a and b", "a", "none"]


def test_every_exhibit_has_a_reading_and_a_table(results):
    shown = exhibits(results)
    assert list(shown) == [
        "accuracy", "training", "ablation_zero", "ablation_mean", "ablation_resample",
        "selection", "repair_by_head", "repair", "planted", "seeds",
    ]  # fmt: skip
    for exhibit in shown.values():
        assert exhibit.reading.endswith(".")
        assert all(len(row) == len(exhibit.table.header) for row in exhibit.table.rows)


def test_readings_are_computed(results):
    shown = exhibits(results)
    # Validation accuracy is epoch / 10 and epoch / 11.
    assert "for the first time: flat ones in epoch 5 and parenthesised ones in epoch 6." in shown["training"].reading
    # Shares of 1, 5, 0.8 and 5 in 11.8; the difference is half of it, less 0.05 at its lower end.
    reading = shown["ablation_mean"].reading
    assert "replaced by its mean" in reading
    assert "L0H1 costs parenthesised expressions most, 42.4 points" in reading
    assert "above zero: L0H1 and L1H1." in reading
    assert "42.4 points on average; on the other half 41.4" in shown["selection"].reading
    assert shown["selection"].table.rows[1][-1] == "selected, below the threshold"
    assert "lowest, 0.500 on average, for denoising in 'and' circuits" in shown["planted"].reading
    assert "5.0% [3.0%, 7.0%] of 400 circuits" in shown["planted"].reading
    reading = shown["seeds"].reading
    assert "with 3 seeds" in reading
    assert "recover 0.50 to 0.70 by denoising" in reading
    assert "sufficient in 0 of them, necessary in 2." in reading
    assert shown["seeds"].table.rows[0] == ["exact match, paren", "0.500", "0.600", "0.700"]


def test_repair_is_judged_against_its_control(results):
    assert "there is no evidence" in exhibits(results)["repair"].reading
    top = results["patching"]["repair"]["top_k"]
    top["right_to_wrong"] = {part: {"value": 0.5, "low": 0.4, "high": 0.6} for part in ("fixed", "adopted")}
    assert "right donors repair more than wrong ones" in exhibits(results)["repair"].reading


def test_a_control_without_pairs_is_left_out(results):
    for rates in results["patching"]["repair"].values():
        del rates["wrong_to_wrong"]
    shown = exhibits(results)
    assert shown["repair"].reading.endswith("if their donor was answered right.")
    assert shown["repair_by_head"].table.header == ["layer", "head", "from right donors"]
    assert shown["repair"].table.header[1:] == ["repaired, right donors", "turned into the donor's answer"]


def test_an_exhibit_without_results_says_what_is_missing(results):
    planted = exhibits({**results, "planted": {}})["planted"]
    assert planted.table is None
    assert "dvc repro planted" in planted.reading
    seeds = exhibits({**results, "seeds": {}})["seeds"]
    assert seeds.table is None
    assert "python -m stages.seeds" in seeds.reading
