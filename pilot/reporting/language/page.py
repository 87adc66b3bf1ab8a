"""The page of a language model on one task, and the overview of several tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilot.reporting.language.results import Subject

Provenance = Mapping[str, Mapping[str, object]]


def write_page(
    metrics: Path, examples: Path, output: Path, *, subject: Subject, provenance: Provenance
) -> None:
    """Write one HTML page that needs no network, and its pictures as PNG files in `metrics`/figures.

    metrics      folder of pairs.json, selection.json, counterfactual.json, head_positions.csv, interactions.csv,
                 best_sets.csv
    examples     examples.json: worked examples; the page says so where the file is missing
    provenance   title -> name -> value, such as {"Model": {"file": ..., "SHA-256": ..., "licence": ...},
                 "Versions": pilot.reporting.provenance.versions(), "Parameters": {...}}

    Raises PilotError that names a file that is missing, damaged or of another version.
    """
    raise NotImplementedError


def write_overview(metrics: Mapping[Subject, Path], output: Path, *, provenance: Provenance) -> None:
    """Write one HTML page that puts tasks of one model side by side: which heads serve which task.

    metrics      the folder of each task, as for write_page

    Raises PilotError as write_page does.
    """
    raise NotImplementedError
