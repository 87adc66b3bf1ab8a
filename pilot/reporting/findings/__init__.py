"""What the report says: sentences computed from the measurements, each with its plot and table."""

from __future__ import annotations

from pilot.reporting.findings import ablation, attribution, blindness, patching, planted, repair, subsets, training
from pilot.reporting.findings.finding import Finding
from pilot.reporting.measurements import Measurements

__all__ = ["Finding", "findings"]


def findings(measured: Measurements) -> list[Finding]:
    """All findings, in the order of the page. One without numbers says why there are none."""
    return [
        training.accuracy(measured),
        training.training(measured),
        *ablation.ablations(measured),
        ablation.selection(measured),
        patching.recovery(measured),
        patching.sets(measured),
        patching.verdict(measured),
        patching.head_positions(measured),
        subsets.shapley(measured),
        subsets.interactions(measured),
        subsets.best_sets(measured),
        *attribution.attribution(measured),
        blindness.blindness(measured),
        training.trajectory(measured),
        training.seeds(measured),
        repair.repair_by_head(measured),
        repair.repair(measured),
        *planted.planted(measured),
    ]
