"""Stage `examples`: pairs to look at one by one, with their patched answers and attention patterns."""

from __future__ import annotations

import json
from pathlib import Path

from pilot.arithmetic.pairs import read_pairs
from pilot.errors import PilotError
from pilot.experiments.pairs import ROLES
from pilot.experiments.selection import read_selection
from pilot.experiments.worked_examples import choose_pairs, worked_example
from pilot.models.checkpoint import load_model
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import write_text

KIND = ("regroup", "confirm")
N_PAIRS = 12


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.examples", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="such as runs/pilot/checkpoint_best.pt")
    parser.add_argument("--pairs", type=Path, default=Path("data/pilot_pairs.jsonl"), help="(default: %(default)s)")
    parser.add_argument("--selection", type=Path, default=Path("metrics/selection.json"), help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/examples.json"), help="(default: %(default)s)")
    parser.add_device()
    args = parser.parse_args(argv)
    model = load_model(args.checkpoint, resolve_device(args.device))
    pairs = [pair for pair in read_pairs(args.pairs, model.config.context) if (pair.edit, pair.split) == KIND]
    if not pairs:
        raise PilotError(f"{args.pairs}: holds no {KIND[0]} pairs of the {KIND[1]} split; run: dvc repro -f generate")
    ranked, k = read_selection(args.selection, model.config)
    examples = [worked_example(model, pair, ranked[:k]) for pair in choose_pairs(model, pairs, N_PAIRS)]
    content = {"roles": ROLES, "selected": [patch.name for patch in ranked[:k]], "pairs": examples}
    write_text(args.output, json.dumps(content, separators=(",", ":")) + "\n")
    print(f"Wrote {args.output}: {len(examples)} of {len(pairs)} pairs")


if __name__ == "__main__":
    raise SystemExit(main())
