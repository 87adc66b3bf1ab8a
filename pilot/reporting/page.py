"""The report of the arithmetic pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pilot.reporting import html
from pilot.reporting.findings import Finding
from pilot.reporting.findings.headlines import headlines
from pilot.reporting.measurements import Measurements
from pilot.reporting.params import Params


def html_page(
    measured: Measurements,
    findings: Sequence[Finding],
    images: Mapping[str, bytes],
    examples: Mapping[str, Any],
    params: Params,
    provenance: Mapping[str, Mapping[str, str]],
) -> str:
    """The page as text; the same arguments give the same text.

    images       PNG files by the names of their findings
    examples     the contents of runs/examples.json, empty if there are none
    provenance   "versions", and "data": the hashes of the data files
    """
    return html.render(
        "report.html",
        findings,
        images,
        examples,
        measured=measured,
        headlines=headlines(measured),
        params=params.model_dump(),
        provenance=provenance,
    )
