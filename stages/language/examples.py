"""Stage `examples`: a few confirm pairs to look at, what patching the players does to them, and where they attend."""

from __future__ import annotations

import json
from pathlib import Path

from pilot.experiments.players import read_players
from pilot.experiments.text_examples import TextExamplesParams, text_examples
from pilot.experiments.text_pairs import read_answered
from pilot.language.load import load_language_model, load_tokenizer
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import write_text
from pilot.runtime.schema import load_section


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.language.examples", description=__doc__)
    parser.add_config()
    parser.add_argument("--model", type=Path, required=True, help="such as ../runs/language/model")
    parser.add_argument("--pairs", type=Path, required=True, help="such as ../runs/language/ioi/pairs.jsonl")
    parser.add_argument(
        "--metrics-dir",
        type=Path,
        required=True,
        help="with pairs.json and selection.json, such as ../metrics/language/ioi",
    )
    parser.add_argument("--output", type=Path, required=True, help="such as ../runs/language/ioi/examples.json")
    parser.add_device()
    args = parser.parse_args(argv)
    params = load_section(args.config, "examples", TextExamplesParams)
    model = load_language_model(args.model, resolve_device(args.device))
    tokenizer = load_tokenizer(args.model)
    answered = read_answered(args.pairs, args.metrics_dir / "pairs.json", model, tokenizer)
    players, _ = read_players(args.metrics_dir / "selection.json", model)
    examples = text_examples(model, tokenizer, answered, players, params.pairs)
    write_text(args.output, json.dumps(examples, ensure_ascii=False) + "\n")
    print(f"Wrote {args.output}: {len(examples)} pairs")


if __name__ == "__main__":
    raise SystemExit(main())
