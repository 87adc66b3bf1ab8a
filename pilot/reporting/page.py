"""The report: one HTML page that needs no network, its scripts and pictures inside."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pilot.reporting.model_findings import Exhibit, percent
from pilot.reporting.params import Params
from pilot.reporting.plot import SEQUENTIAL
from pilot.reporting.plotly_charts import charts, colour_scale
from pilot.reporting.results import Results, selected_heads


def html_page(
    results: Results,
    exhibits: Sequence[Exhibit],
    images: Mapping[str, bytes],
    examples: Mapping,
    params: Params,
    provenance: Mapping[str, Mapping[str, str]],
) -> str:
    """The page as text; the same arguments give the same text.

    images       PNG files by the names of their exhibits
    examples     the contents of runs/examples.json, empty if there are none
    provenance   "versions" and "data", the hashes of its files
    """
    environment = Environment(
        loader=PackageLoader("pilot.reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    data = {
        "charts": {exhibit.name: _specifications(exhibit) for exhibit in exhibits if exhibit.plot},
        "examples": examples,
        "colours": colour_scale(SEQUENTIAL),
    }
    return environment.get_template("report.html").render(
        results=results,
        selected=selected_heads(results),
        exhibits={exhibit.name: exhibit for exhibit in exhibits},
        images={name: "data:image/png;base64," + base64.b64encode(image).decode() for name, image in images.items()},
        data=_json(data),
        has_examples=bool(examples),
        params=params.model_dump(),
        provenance=provenance,
        plotly=Markup(get_plotlyjs()),  # part of the trusted package: not to be escaped
    )


def _specifications(exhibit: Exhibit) -> list[dict]:
    return [json.loads(figure.to_json()) for figure in charts(exhibit.plot)]


def _json(data: Mapping) -> Markup:
    """JSON that cannot end the script element that it stands in."""
    return Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))
