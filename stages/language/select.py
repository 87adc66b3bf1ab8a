"""Stage `select`: every head alone, patched both ways on select pairs; the heads of largest effect are the players.

With select.method attribution+verify only heads that may have a large effect are patched on all pairs.

Processes share the work (PILOT_PROCESSES, or torchrun), and a run that was killed resumes when the same command is
given again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tabulate import tabulate

from pilot.experiments.language import model_shards, select_players
from pilot.experiments.params import SweepParams
from pilot.experiments.parts import shared_engine
from pilot.experiments.players import PlayersParams
from pilot.experiments.text_pairs import read_answered
from pilot.inputs.pairs import DIRECTIONS
from pilot.language.load import load_language_model, load_tokenizer
from pilot.runtime import distributed
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import write_json
from pilot.runtime.schema import load_section


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.language.select", description=__doc__)
    parser.add_config()
    parser.add_argument("--model", type=Path, required=True, help="such as ../runs/language/model")
    parser.add_argument("--pairs", type=Path, required=True, help="such as ../runs/language/ioi/pairs.jsonl")
    parser.add_argument("--numbers", type=Path, required=True, help="such as ../metrics/language/ioi/pairs.json")
    parser.add_argument("--state-dir", type=Path, required=True, help="what a killed run resumes from; no other run's")
    parser.add_argument("--output", type=Path, required=True, help="such as ../metrics/language/ioi/selection.json")
    parser.add_device()
    args = parser.parse_args(argv)
    distributed.launch("stages.language.select", sys.argv[1:] if argv is None else argv)
    params = load_section(args.config, "select", PlayersParams)
    impl = load_section(args.config, "sweep", SweepParams).impl
    with distributed.process_group(resolve_device(args.device), fixed_threads=True) as device:
        model, tokenizer = load_language_model(args.model, device), load_tokenizer(args.model)
        answered = read_answered(args.pairs, args.numbers, model, tokenizer)
        engine = shared_engine(model, impl)
        shards = model_shards(args.state_dir, engine, device, args.model)
        selection = select_players(engine, answered, params, shards)
        if selection is not None:
            write_json(args.output, selection)
            shards.remove()
            rows = [
                [rank, name, *(selection["recovery"][direction][name]["value"] for direction in DIRECTIONS)]
                for name, rank in selection["player"].items()
            ]
            print(tabulate(rows, headers=["rank", "player", *DIRECTIONS], floatfmt="+.3f"))
            print(f"Wrote {args.output}")


if __name__ == "__main__":
    raise SystemExit(main())
