"""Stage `examples`: pairs to look at one by one, with their patched answers and attention patterns."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.arithmetic.examples import buckets_by_length
from pilot.arithmetic.pairs import CounterfactualPair, read_pairs
from pilot.arithmetic.prompts import token_pairs
from pilot.arithmetic.scoring import score_model
from pilot.arithmetic.vocabulary import decode
from pilot.errors import PilotError
from pilot.experiments.params import ExamplesParams
from pilot.experiments.selection import read_selection
from pilot.experiments.worked_examples import choose_evenly, worked_example
from pilot.inputs.pairs import ROLES
from pilot.interventions import Intervention
from pilot.models.checkpoint import load_model
from pilot.models.transformer import PilotTransformer
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import write_text
from pilot.runtime.schema import load_section

KIND = (MAIN_EDIT, "confirm")


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.examples", description=__doc__)
    parser.add_config()
    parser.add_argument("--checkpoint", type=Path, required=True, help="such as runs/pilot/checkpoint_best.pt")
    parser.add_argument("--pairs", type=Path, default=Path("data/pilot_pairs.jsonl"), help="(default: %(default)s)")
    parser.add_argument("--selection", type=Path, default=Path("metrics/selection.json"), help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/examples.json"), help="(default: %(default)s)")
    parser.add_device()
    args = parser.parse_args(argv)
    params = load_section(args.config, "examples", ExamplesParams)
    model = load_model(args.checkpoint, resolve_device(args.device))
    pairs = [pair for pair in read_pairs(args.pairs, model.config.context) if (pair.edit, pair.split) == KIND]
    if not pairs:
        raise PilotError(f"{args.pairs}: holds no {KIND[0]} pairs of the {KIND[1]} split; run: dvc repro -f generate")
    ranked, k = read_selection(args.selection, model.config)
    sides = [pair.clean for pair in pairs], [pair.corrupt for pair in pairs]
    clean_right, corrupt_right = (score_model(model, buckets_by_length(side)).exact_match.numpy() for side in sides)
    chosen = [pairs[i] for i in choose_evenly(clean_right & corrupt_right, params.pairs)]
    examples = [_example(model, pair, ranked[:k]) for pair in chosen]
    content = {"roles": ROLES, "selected": [patch.name for patch in ranked[:k]], "pairs": examples}
    write_text(args.output, json.dumps(content, separators=(",", ":")) + "\n")
    print(f"Wrote {args.output}: {len(examples)} of {len(pairs)} pairs")


def _example(model: PilotTransformer, pair: CounterfactualPair, selected: Intervention) -> dict[str, Any]:
    """A worked example with the text of both sides."""
    (tokens,) = token_pairs([pair])
    example = worked_example(model, tokens, selected, decode)
    texts = {"clean": asdict(pair.clean), "corrupt": asdict(pair.corrupt)}
    return example | {side: text | example[side] for side, text in texts.items()}


if __name__ == "__main__":
    raise SystemExit(main())
