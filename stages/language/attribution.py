"""Stage `attribution`: what cheap approximations would have said of heads and of sets of the players, held against
exact patching."""

from __future__ import annotations

from pathlib import Path

from pilot.experiments.attribution.methods import method_named
from pilot.experiments.attribution.results import LanguageAttributionParams, hold_against_exact
from pilot.experiments.params import CounterfactualParams, SweepParams
from pilot.experiments.players import read_players
from pilot.experiments.text_pairs import read_answered
from pilot.language.load import load_language_model, load_tokenizer
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.schema import load_section
from pilot.sweep import SweepEngine


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.language.attribution", description=__doc__)
    parser.add_config()
    parser.add_argument("--model", type=Path, required=True, help="such as ../runs/language/model")
    parser.add_argument("--pairs", type=Path, required=True, help="such as ../runs/language/ioi/pairs.jsonl")
    parser.add_argument(
        "--metrics-dir",
        type=Path,
        required=True,
        help="with pairs.json and selection.json, such as ../metrics/language/ioi",
    )
    parser.add_device()
    args = parser.parse_args(argv)
    params = load_section(args.config, "attribution", LanguageAttributionParams)
    judged_by = load_section(args.config, "counterfactual", CounterfactualParams)
    impl = load_section(args.config, "sweep", SweepParams).impl
    model = load_language_model(args.model, resolve_device(args.device))
    answered = read_answered(args.pairs, args.metrics_dir / "pairs.json", model, load_tokenizer(args.model))
    players, _ = read_players(args.metrics_dir / "selection.json", model)
    methods = {name: method_named(name) for name in params.methods}
    results = hold_against_exact(
        SweepEngine(model, impl),
        answered.usable,
        answered.main_edit,
        players if judged_by.exhaustive else (),
        methods,
        params,
        judged_by.min_effect,
    )
    results.print()
    results.write(args.metrics_dir)
    print(f"Wrote {args.metrics_dir / 'attribution.json'}")


if __name__ == "__main__":
    raise SystemExit(main())
