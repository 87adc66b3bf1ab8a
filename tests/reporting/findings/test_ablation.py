from support.report_cases import estimate

from pilot.reporting.findings.ablation import ablations, selection


def test_each_method_names_the_heads_that_cost_most(measured):
    zero, mean, resample = ablations(measured)
    assert [zero.name, mean.name, resample.name] == ["ablation_zero", "ablation_mean", "ablation_resample"]
    assert "replaced by its mean" in mean.text
    assert "Parenthesised answers lose most without L0H1: 42.4 [37.4, 47.4] points." in mean.text
    # The difference between the kinds is half of the impact, less 0.05 at its lower end.
    assert "above zero: L0H1 and L1H1." in mean.text


def test_without_a_clear_loss_none_is_claimed(measured):
    for impact in measured.ablation["impact"]["zero"].values():
        impact |= {"paren": estimate(0.04), "paren_minus_flat": estimate(0.04)}
    text = ablations(measured)[0].text
    assert "No single head clearly costs parenthesised answers." in text
    assert "above zero: none." in text


def test_selected_heads_are_judged_on_the_other_half(measured):
    finding = selection(measured)
    assert "where they cost 42.4 points on average; on the other half" in finding.text
    assert finding.text.endswith("they cost 41.4.")
    assert [row[-1] for row in finding.table.rows] == ["selected", "selected, below the threshold", "", ""]
