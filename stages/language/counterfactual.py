"""Stage `counterfactual`: which heads are sufficient, which necessary, alone and in every set of the players.

Processes share the work (PILOT_PROCESSES, or torchrun), and a run that was killed resumes when the same command is
given again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pilot.experiments.language import counterfactual, model_shards
from pilot.experiments.params import CounterfactualParams, SweepParams
from pilot.experiments.parts import shared_engine
from pilot.experiments.players import read_players
from pilot.experiments.text_pairs import read_answered
from pilot.language.load import load_language_model, load_tokenizer
from pilot.runtime import distributed
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.schema import load_section


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.language.counterfactual", description=__doc__)
    parser.add_config()
    parser.add_argument("--model", type=Path, required=True, help="such as ../runs/language/model")
    parser.add_argument("--pairs", type=Path, required=True, help="such as ../runs/language/ioi/pairs.jsonl")
    parser.add_argument(
        "--metrics-dir",
        type=Path,
        required=True,
        help="with pairs.json and selection.json, such as ../metrics/language/ioi",
    )
    parser.add_argument("--state-dir", type=Path, required=True, help="what a killed run resumes from; no other run's")
    parser.add_device()
    args = parser.parse_args(argv)
    distributed.launch("stages.language.counterfactual", sys.argv[1:] if argv is None else argv)
    params = load_section(args.config, "counterfactual", CounterfactualParams)
    impl = load_section(args.config, "sweep", SweepParams).impl
    with distributed.process_group(resolve_device(args.device), fixed_threads=True) as device:
        model, tokenizer = load_language_model(args.model, device), load_tokenizer(args.model)
        answered = read_answered(args.pairs, args.metrics_dir / "pairs.json", model, tokenizer)
        players, stability = read_players(args.metrics_dir / "selection.json", model)
        engine = shared_engine(model, impl)
        shards = model_shards(args.state_dir, engine, device, args.model)
        results = counterfactual(engine, tokenizer, answered, players, stability, params, shards)
        if results is not None:
            results.write(args.metrics_dir)
            shards.remove()
            print(f"Wrote {args.metrics_dir / 'counterfactual.json'}")


if __name__ == "__main__":
    raise SystemExit(main())
