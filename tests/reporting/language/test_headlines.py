from dataclasses import replace

from pilot.reporting.language.headlines import headlines


def test_the_answer_names_heads_and_sets(results):
    alone, tested, denoising, noising, against, caveat = headlines(results)
    assert alone.endswith("by denoising L2H2, 0.40 [0.36, 0.44]; by noising L2H2, 0.40 [0.36, 0.44].")
    assert tested == "Sufficient alone: L2H0 and L2H2. Necessary: L2H2."
    assert denoising == (
        "By denoising it takes 2 of the 3 players to recover half of the difference: L2H2 and L2H0, which together "
        "recover 0.78 [0.74, 0.82]; all 3 players together recover 0.58 [0.54, 0.62]."
    )
    assert noising.startswith("By noising it takes 2 of the 3")
    assert "by denoising L1H1 (-0.20)" in against
    assert "1 of the 3 players might not be among them (stability below 95%: L1H1)" in caveat
    assert "88 pairs" in caveat


def test_a_null_result_is_said_as_such(null_results):
    alone, tested, denoising, _, caveat = headlines(null_results)
    assert "(does not pass the test)" in alone
    assert tested.startswith("No head passes the test, corrected for all 9 of them")
    assert denoising == (
        "By denoising no set of the 3 players recovers half of the difference; all 3 players together recover 0.00 "
        "[-0.04, 0.04]."
    )
    assert "Other wordings" in caveat


def test_heads_of_largest_single_effect_are_named_where_they_are_not_the_best_set(results):
    rows = [
        row | {"heads": "L2H2+L1H1", "value": "0.2"} if row["set"] == "single" else row for row in results.best_sets
    ]
    assert "; the 2 of largest effect alone recover 0.20, all 3" in headlines(replace(results, best_sets=rows))[2]


def test_one_head_may_be_enough(results):
    rows = [row | {"value": "0.6"} if row["set"] == "best" and row["size"] == "1" else row for row in results.best_sets]
    assert (
        "takes 1 of the 3 players to recover half of the difference: L2H2, which recovers 0.60"
        in headlines(replace(results, best_sets=rows))[2]
    )


def test_without_sets_nothing_is_said_of_them(results):
    assert not any("players to recover" in sentence for sentence in headlines(replace(results, best_sets=[])))
