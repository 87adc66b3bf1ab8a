from dataclasses import replace

from pilot.reporting.findings.headlines import headlines


def test_the_main_results_in_four_sentences(measured):
    right, needed, moved, alone = headlines(measured)
    assert right.startswith("The model gives the whole answer right for 97.0% of flat and 90.0% of parenthesised")
    assert needed.endswith("L0H1 and L1H1 (below the impact threshold: L1H1).")
    assert "together recover 84.7% [79.7%, 89.7%] by denoising and 84.7% [79.7%, 89.7%] by noising of the" in moved
    assert moved.endswith("the control, 0.0% [-5.0%, 5.0%] by denoising and 0.0% [-5.0%, 5.0%] by noising.")
    assert alone == "Sufficient alone: L0H1 and L1H1. Necessary: L0H1."


def test_nothing_is_claimed_of_heads_that_earned_no_word(measured):
    for words in measured.counterfactual["verdict"].values():
        words |= {"sufficient": 0, "necessary": 0}
    assert headlines(measured)[-1] == "Sufficient alone: no head. Necessary: no head."


def test_a_threshold_that_all_selected_heads_meet_is_not_mentioned(measured):
    for head in measured.selection["heads"].values():
        head["meets_threshold"] = 1
    assert headlines(measured)[1].endswith("one at a time: L0H1 and L1H1.")


def test_without_patching_nothing_is_said_of_it(measured):
    assert len(headlines(replace(measured, counterfactual={}))) == 2
