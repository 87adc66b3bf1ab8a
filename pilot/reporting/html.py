"""HTML pages that need no network: a template filled in, with its scripts, charts and pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader
from plotly.offline import get_plotlyjs

from pilot.reporting.findings.finding import Finding
from pilot.reporting.plot import SEQUENTIAL, Plot
from pilot.reporting.plotly_charts import charts, colour_scale


def render(
    template: str, findings: Iterable[Finding], images: Mapping[str, bytes], examples: Any, **context: object
) -> str:
    """The page as text; the same arguments give the same text.

    template   its file in templates/, which extends page.html
    images     PNG files by the names of their findings
    examples   what the page's script makes worked examples of
    context    what else the template names
    """
    environment = Environment(
        loader=PackageLoader("pilot.reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    # The filter tojson also escapes what could end the script element that the JSON stands in.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    by_name = {finding.name: finding for finding in findings}
    return environment.get_template(template).render(
        findings=by_name,
        images={name: "data:image/png;base64," + base64.b64encode(image).decode() for name, image in images.items()},
        data={
            "charts": {name: _specifications(finding.plot) for name, finding in by_name.items() if finding.plot},
            "examples": examples,
            "colours": colour_scale(SEQUENTIAL),
        },
        plotly=get_plotlyjs(),
        **context,
    )


def _specifications(plot: Plot) -> dict[str, Any]:
    return {title: chart.to_plotly_json() for title, chart in charts(plot).items()}
