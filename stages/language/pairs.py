"""Stage `pairs`: pairs of text of one task that the model answers right on both sides, and how many it does not."""

from __future__ import annotations

from pathlib import Path

from pilot.experiments.params import CounterfactualParams
from pilot.experiments.text_pairs import answered_pairs, rates
from pilot.language.load import load_language_model, load_tokenizer
from pilot.language.pairs import write_text_pairs
from pilot.language.params import PairsParams
from pilot.language.tasks.source import task_pairs
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import write_json
from pilot.runtime.schema import load_section


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.language.pairs", description=__doc__)
    parser.add_config()
    parser.add_argument("--model", type=Path, required=True, help="such as ../runs/language/model")
    parser.add_argument("--task", required=True, help="ioi, greater-than, agreement, or a file TASK.jsonl of pairs-dir")
    parser.add_argument("--pairs-dir", type=Path, default=Path("pairs"), help="your own (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, required=True, help="the pairs, such as ../runs/language/ioi/pairs.jsonl"
    )
    parser.add_argument(
        "--numbers", type=Path, required=True, help="how many, such as ../metrics/language/ioi/pairs.json"
    )
    parser.add_device()
    args = parser.parse_args(argv)
    params = load_section(args.config, "pairs", PairsParams)
    gap = load_section(args.config, "counterfactual", CounterfactualParams).min_logit_gap
    device = resolve_device(args.device)
    tokenizer = load_tokenizer(args.model)
    pairs = task_pairs(args.task, args.pairs_dir, params.per_split, params.seed, tokenizer)
    answered = answered_pairs(load_language_model(args.model, device), tokenizer, pairs, gap)
    write_text_pairs(args.output, answered.text)
    write_json(args.numbers, answered.numbers)
    print(rates(answered))
    print(f"Wrote {args.output} and {args.numbers}")


if __name__ == "__main__":
    raise SystemExit(main())
