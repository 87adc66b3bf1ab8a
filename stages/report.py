"""Stage `report`: the figures, the main numbers, and one page that shows and explains all results."""

from __future__ import annotations

from pathlib import Path

from jinja2 import UndefinedError

from pilot.errors import PilotError
from pilot.reporting.findings import findings
from pilot.reporting.findings.training import seeds_are_stale
from pilot.reporting.matplotlib_figures import figure, png
from pilot.reporting.measurements import read_measurements
from pilot.reporting.page import html_page
from pilot.reporting.params import load_params
from pilot.reporting.provenance import data_hashes, versions
from pilot.reporting.summary import HEAD_COLUMNS, head_rows, summary
from pilot.runtime.cli import Parser, command
from pilot.runtime.files import read_json, write_bytes, write_csv, write_json, write_text


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.report", description=__doc__)
    parser.add_config()
    parser.add_argument("--metrics-dir", type=Path, default=Path("metrics"), help="(default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="for their hashes (default: %(default)s)")
    parser.add_argument(
        "--examples", type=Path, default=Path("runs/examples.json"), help="left out if missing (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/report.html"), help="(default: %(default)s)")
    args = parser.parse_args(argv)
    params = load_params(args.config)
    measured = read_measurements(args.metrics_dir)
    examples = read_json(args.examples, made_by="examples") if args.examples.exists() else {}
    if examples and examples.keys() != {"roles", "selected", "pairs"}:
        raise PilotError(f"{args.examples}: not made by the stage examples; make it again: dvc repro -f examples")
    provenance = {"versions": versions(), "data": data_hashes(args.data_dir)}
    try:
        found = findings(measured)
        images = {finding.name: png(figure(finding.plot)) for finding in found if finding.plot}
        page = html_page(measured, found, images, examples, params, provenance)
        heads, numbers = head_rows(measured), summary(measured)
        stale = seeds_are_stale(measured)
    except (KeyError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise PilotError(
            f"{args.metrics_dir}: results of another version, or damaged ({error!r}); make them again: dvc repro -f"
        ) from None
    for name, image in images.items():
        write_bytes(args.metrics_dir / "figures" / f"{name}.png", image)
    write_csv(args.metrics_dir / "heads.csv", HEAD_COLUMNS, heads)
    write_json(args.metrics_dir / "summary.json", numbers)
    write_text(args.output, page)
    if stale:
        seeds = args.metrics_dir / "seeds.json"
        print(f"{seeds} was made from other results; make it again: python -m stages.seeds --help")
    print(f"Wrote {args.output} and {len(images)} figures in {args.metrics_dir / 'figures'}")


if __name__ == "__main__":
    raise SystemExit(main())
