"""Stage `overview`: one page that puts the tasks of a language model side by side."""

from __future__ import annotations

from pathlib import Path

from pilot.reporting.language.page import write_overview
from pilot.reporting.language.subject import provenance, subject, tasks
from pilot.runtime.cli import Parser, command


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.language.overview", description=__doc__)
    parser.add_config()
    parser.add_argument("--metrics-dir", type=Path, required=True, help="of all tasks, such as ../metrics/language")
    parser.add_argument("--figures-dir", type=Path, required=True, help="such as ../metrics/language_overview")
    parser.add_argument("--output", type=Path, required=True, help="such as ../runs/language_overview.html")
    args = parser.parse_args(argv)
    metrics = {subject(args.config, task): args.metrics_dir / task for task in tasks(args.config)}
    write_overview(metrics, args.figures_dir, args.output, provenance=provenance(args.config))
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    raise SystemExit(main())
