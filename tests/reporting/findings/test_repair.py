from support.report_cases import estimate

from pilot.reporting.findings.repair import repair, repair_by_head


def set_rates(measured, right: float, wrong: float, name: str = "top_k") -> None:
    rates = measured.repair["repair"][name]
    for kind, value in (("right_to_wrong", right), ("wrong_to_wrong", wrong)):
        rates[kind] = rates[kind] | {"fixed": estimate(value)}


def test_sets_of_heads_are_judged_against_their_control(measured):
    assert "there is no evidence that right donors repair more." in repair(measured).text
    set_rates(measured, 0.5, 0.1)
    assert repair(measured).text.endswith("was answered wrong: right donors repair more.")
    set_rates(measured, 0.1, 0.5)
    assert repair(measured).text.endswith("was answered wrong: wrong donors repair more.")


def test_heads_above_their_control_are_named(measured):
    assert repair_by_head(measured).text.endswith("above that of wrong donors: none.")
    set_rates(measured, 0.5, 0.1, "L1H0")
    assert repair_by_head(measured).text.endswith("above that of wrong donors: L1H0.")


def test_a_control_without_pairs_is_left_out(measured):
    for rates in measured.repair["repair"].values():
        del rates["wrong_to_wrong"]
    assert repair(measured).text.endswith("if the donor was answered right.")
    assert repair_by_head(measured).table.header == ["layer", "head", "from right donors"]
    assert repair(measured).table.header[1:] == ["repaired, right donors", "turned into the donor's answer"]
