"""Stage `attribution`: what cheap approximations of patching would have said, held against the exact results."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import token_pairs
from pilot.experiments.attribution.blindness import CIRCUITS, sight, total_sight
from pilot.experiments.attribution.comparison import Scores
from pilot.experiments.attribution.methods import attribution_methods
from pilot.experiments.attribution.results import hold_against_exact
from pilot.experiments.pairs import usable_pairs
from pilot.experiments.params import AttributionParams, CounterfactualParams, SweepParams
from pilot.interventions import single_heads
from pilot.models.checkpoint import load_model
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.schema import load_section
from pilot.sweep import SweepEngine


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.attribution", description=__doc__)
    parser.add_config()
    parser.add_argument("--checkpoint", type=Path, required=True, help="such as runs/pilot/checkpoint_best.pt")
    parser.add_argument("--pairs", type=Path, default=Path("data/pilot_pairs.jsonl"), help="(default: %(default)s)")
    parser.add_argument("--metrics-dir", type=Path, default=Path("metrics"), help="(default: %(default)s)")
    parser.add_device()
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    params = load_section(args.config, "attribution", AttributionParams)
    judged_by = load_section(args.config, "counterfactual", CounterfactualParams)
    impl = load_section(args.config, "sweep", SweepParams).impl
    model = load_model(args.checkpoint, device)
    engine = SweepEngine(model, impl)
    pairs = token_pairs(read_pairs(args.pairs, model.config.context))
    usable = usable_pairs(engine, pairs, judged_by.min_logit_gap)
    set_heads = tuple(head for (head,) in single_heads(model)) if judged_by.exhaustive else ()
    methods = attribution_methods(params.steps)
    results = hold_against_exact(engine, usable, MAIN_EDIT, set_heads, methods, params, judged_by.min_effect)
    results.content["planted"] = _planted(params, judged_by.min_effect, impl)
    results.print()
    results.write(args.metrics_dir)
    print(f"Wrote {args.metrics_dir / 'attribution.json'}")


def _planted(params: AttributionParams, min_effect: float, impl: str) -> Scores:
    """By circuit, direction and method."""
    return {
        circuit: total_sight(
            sight(circuit, (params.seed, number, place), params.planted_pairs, params.steps, min_effect, impl)
            for place in range(params.placements)
        )
        for number, circuit in enumerate(tqdm(CIRCUITS, desc="planted circuits", disable=None))
    }


if __name__ == "__main__":
    raise SystemExit(main())
