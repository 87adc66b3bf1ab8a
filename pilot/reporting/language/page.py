"""The page of a language model on one task, and the overview of several tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jinja2 import UndefinedError

from pilot.errors import PilotError
from pilot.reporting import html
from pilot.reporting.findings.finding import Finding
from pilot.reporting.language.findings import findings
from pilot.reporting.language.headlines import headlines
from pilot.reporting.language.overview import overview
from pilot.reporting.language.results import Subject, read_examples, read_results
from pilot.reporting.matplotlib_figures import figure, png, side_by_side
from pilot.runtime.files import write_bytes, write_text

SUMMARY = ("recovery", "best_sets")  # the plots that summary.png puts side by side

Provenance = Mapping[str, Mapping[str, object]]


def write_page(metrics: Path, examples: Path, output: Path, *, subject: Subject, provenance: Provenance) -> None:
    """Write one HTML page that needs no network, and its pictures as PNG files in `metrics`/figures.

    metrics      folder of pairs.json, selection.json, counterfactual.json, head_positions.csv, interactions.csv,
                 best_sets.csv
    examples     examples.json: worked examples; the page says so where the file is missing
    provenance   title -> name -> value, such as {"Model": {"file": ..., "SHA-256": ..., "licence": ...},
                 "Versions": pilot.reporting.provenance.versions(), "Parameters": {...}}

    Besides a picture of each plot, summary.png shows every head alone and the best sets.

    Raises PilotError that names a file that is missing, damaged or of another version.
    """
    worked = read_examples(examples)
    with _readable(metrics):
        results = read_results(metrics)
        found = findings(results)
        images = _images(found)
        shown = [finding.plot for finding in found if finding.plot and finding.name in SUMMARY]
        images["summary"] = png(side_by_side(shown))
        page = html.render(
            "language.html",
            found,
            images,
            worked,
            subject=subject,
            headlines=headlines(results),
            provenance=provenance,
        )
    _write_images(metrics / "figures", images)
    write_text(output, page)


def write_overview(metrics: Mapping[Subject, Path], figures: Path, output: Path, *, provenance: Provenance) -> None:
    """Write one HTML page that puts tasks of one model side by side, and its pictures as PNG files.

    metrics   the folder of each task, as for write_page; its name is the short name of the task
    figures   folder of the pictures

    Raises PilotError as write_page does.
    """
    subjects = {folder.name: subject for subject, folder in metrics.items()}
    with _readable(*metrics.values()):
        found = overview({folder.name: read_results(folder) for folder in metrics.values()})
        images = _images(found)
        model = next(iter(metrics)).model
        page = html.render("overview.html", found, images, (), subjects=subjects, model=model, provenance=provenance)
    _write_images(figures, images)
    write_text(output, page)


def _images(found: Iterable[Finding]) -> dict[str, bytes]:
    return {finding.name: png(figure(finding.plot)) for finding in found if finding.plot}


def _write_images(folder: Path, images: Mapping[str, bytes]) -> None:
    for name, image in images.items():
        write_bytes(folder / f"{name}.png", image)


@contextmanager
def _readable(*folders: Path) -> Iterator[None]:
    """Where results lack what is read of them, a PilotError that names their folders."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration, UndefinedError) as error:
        raise PilotError(
            f"{', '.join(map(str, folders))}: results of another version, or damaged ({error!r}); make them again: dvc "
            "repro -f"
        ) from None
