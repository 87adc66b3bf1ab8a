"""Stage `generate`: draw the training, validation and test expressions, and the counterfactual pairs."""

from __future__ import annotations

from pathlib import Path

from pilot.cli import Parser, command
from pilot.counterfactual import write_pairs
from pilot.dataset import write_examples
from pilot.params import load_params
from pilot.sampling import draw_pairs, draw_splits


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.generate", description=__doc__)
    parser.add_config()
    parser.add_argument(
        "--output-dir", type=Path, default=Path("data"), help="folder for the data (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    data = load_params(args.config).data
    splits, pairs = draw_splits(data), draw_pairs(data)
    for name, examples in splits.items():
        path = args.output_dir / f"pilot_{name}.jsonl"
        write_examples(path, examples)
        print(f"{path}: {len(examples)} lines, such as {examples[0].line}")
    path = args.output_dir / "pilot_pairs.jsonl"
    write_pairs(path, pairs)
    print(f"{path}: {len(pairs)} lines, such as {pairs[0].clean.line} and {pairs[0].corrupt.line}")


if __name__ == "__main__":
    raise SystemExit(main())
