"""The report: one HTML page that needs no network, with its scripts and figures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader
from plotly.offline import get_plotlyjs

from pilot.reporting.findings import Finding
from pilot.reporting.findings.headlines import headlines
from pilot.reporting.measurements import Measurements
from pilot.reporting.params import Params
from pilot.reporting.plot import SEQUENTIAL, Plot
from pilot.reporting.plotly_charts import charts, colour_scale


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
    environment = Environment(
        loader=PackageLoader("pilot.reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    # The filter tojson also escapes what could end the script element that the JSON stands in.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template("report.html").render(
        measured=measured,
        headlines=headlines(measured),
        findings={finding.name: finding for finding in findings},
        images={name: "data:image/png;base64," + base64.b64encode(image).decode() for name, image in images.items()},
        data={
            "charts": {finding.name: _specifications(finding.plot) for finding in findings if finding.plot},
            "examples": examples,
            "colours": colour_scale(SEQUENTIAL),
        },
        params=params.model_dump(),
        provenance=provenance,
        plotly=get_plotlyjs(),
    )


def _specifications(plot: Plot) -> dict[str, Any]:
    return {title: chart.to_plotly_json() for title, chart in charts(plot).items()}
