"""Stage `generate`: draw the training, validation and test expressions, and the counterfactual pairs."""

from __future__ import annotations

from pathlib import Path

from pilot.arithmetic.examples import write_examples
from pilot.arithmetic.pairs import write_pairs
from pilot.arithmetic.params import DataParams
from pilot.arithmetic.sampling import draw_pairs, draw_splits
from pilot.runtime.cli import Parser, command
from pilot.runtime.schema import load_section


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.generate", description=__doc__)
    parser.add_config()
    parser.add_argument(
        "--output-dir", type=Path, default=Path("data"), help="folder for the data (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    data = load_section(args.config, "data", DataParams)
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
