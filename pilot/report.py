"""The report: one HTML page that opens without a network."""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping
from importlib.metadata import version
from io import BytesIO

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from pilot.params import Params


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def html_page(
    results: Mapping[str, Mapping], figures: Mapping[str, bytes], names: Mapping[str, str], params: Params
) -> str:
    """The page as text.

    results   the contents of train.json, ablation.json, selection.json and patching.json, by name
    figures   PNG files by name
    names     what the page calls the patched sets of heads, by their key in patching.json
    """
    environment = Environment(loader=PackageLoader("pilot"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=_percent, points=_points)
    return environment.get_template("report.html").render(
        **results,
        figures={name: "data:image/png;base64," + base64.b64encode(image).decode() for name, image in figures.items()},
        names=names,
        params=params.model_dump(),
        versions={
            "Python": platform.python_version(),
            **{package: version(package) for package in ("torch", "numpy", "scipy", "dvc")},
            "system": f"{platform.system()} {platform.machine()}",
        },
    )


def _percent(rate: Mapping[str, float] | float) -> str:
    if isinstance(rate, Mapping):
        return f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"
    return f"{rate:.2%}"


def _points(rate: Mapping[str, float]) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    return f"{100 * rate['value']:+.1f} [{100 * rate['low']:+.1f}, {100 * rate['high']:+.1f}]"
