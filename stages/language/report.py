"""Stage `report`: one page about the heads of a language model on one task, and its pictures."""

from __future__ import annotations

from pathlib import Path

from pilot.reporting.language.page import write_page
from pilot.reporting.language.subject import provenance, subject
from pilot.runtime.cli import Parser, command


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.language.report", description=__doc__)
    parser.add_config()
    parser.add_argument("--task", required=True, help="such as ioi")
    parser.add_argument("--metrics-dir", type=Path, required=True, help="such as ../metrics/language/ioi")
    parser.add_argument("--examples", type=Path, required=True, help="such as ../runs/language/ioi/examples.json")
    parser.add_argument("--output", type=Path, required=True, help="such as ../runs/language/ioi/report.html")
    args = parser.parse_args(argv)
    about = provenance(args.config)
    write_page(args.metrics_dir, args.examples, args.output, subject=subject(args.config, args.task), provenance=about)
    print(f"Wrote {args.output} and the pictures in {args.metrics_dir / 'figures'}")


if __name__ == "__main__":
    raise SystemExit(main())
