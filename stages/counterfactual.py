"""Stage `counterfactual`: which heads are sufficient, which necessary, on pairs of expressions one edit apart.

With `torchrun --nproc-per-node=2 -m stages.counterfactual` processes share the sweep over all sets of heads, and the
result is the same, bit for bit. A run that was killed resumes when the same command is given again.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import torch

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import position_labels, token_pairs
from pilot.experiments.counterfactual import Counterfactual, Stability
from pilot.experiments.pairs import usable_pairs
from pilot.experiments.params import CounterfactualParams, SweepParams
from pilot.experiments.parts import shared_engine, sweep_shards
from pilot.experiments.selection import pipeline_targets, read_selection
from pilot.experiments.subsets import best_sets
from pilot.experiments.verdicts import stability
from pilot.models.checkpoint import load_model
from pilot.runtime import distributed
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.schema import load_section

# What the sweep over all sets of heads runs.
CODE = (
    "pilot.arithmetic",
    "pilot.experiments",
    "pilot.inputs",
    "pilot.interventions",
    "pilot.models",
    "pilot.ops",
    "pilot.runtime",
    "pilot.sweep",
)


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.counterfactual", description=__doc__)
    parser.add_config()
    parser.add_argument("--checkpoint", type=Path, required=True, help="such as runs/pilot/checkpoint_best.pt")
    parser.add_argument("--pairs", type=Path, default=Path("data/pilot_pairs.jsonl"), help="(default: %(default)s)")
    parser.add_argument("--selection", type=Path, default=Path("metrics/selection.json"), help="(default: %(default)s)")
    parser.add_argument("--metrics-dir", type=Path, default=Path("metrics"), help="(default: %(default)s)")
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path("runs/.state/counterfactual"),
        help="what a killed run resumes from; all its processes share it, and no other run (default: %(default)s)",
    )
    parser.add_device()
    args = parser.parse_args(argv)
    distributed.launch("stages.counterfactual", sys.argv[1:] if argv is None else argv)
    device = resolve_device(args.device)
    params = load_section(args.config, "counterfactual", CounterfactualParams)
    sweep = load_section(args.config, "sweep", SweepParams)
    with distributed.process_group(device, fixed_threads=True) as device:
        _analyse(args, params, sweep.impl, device)


def _analyse(args: Namespace, params: CounterfactualParams, impl: str, device: torch.device) -> None:
    model = load_model(args.checkpoint, device)
    engine = shared_engine(model, impl)
    ranked, k = read_selection(args.selection, model.config)
    pairs = token_pairs(read_pairs(args.pairs, model.config.context))
    usable = distributed.from_main(lambda: usable_pairs(engine, pairs, params.min_logit_gap))
    shards = sweep_shards(args.state_dir, engine, device, [Path(__file__), args.checkpoint], CODE)
    experiment = Counterfactual(
        engine=engine,
        usable=usable,
        main_edit=MAIN_EDIT,
        targets=pipeline_targets(ranked, k, ()),
        players=ranked,
        params=params,
        compare_sets=lambda select, confirm: best_sets(
            select, confirm, {"ablation": ranked}, params.resamples, params.seed
        ),
        labels=[position_labels(pair) for pair in usable.groups.get((MAIN_EDIT, "confirm"), [])],
        position_pairs=None,
        shards=shards,
    )

    def of_selected() -> Stability:
        return {
            direction: stability(by_split["select"], k, params.resamples, params.seed)
            for direction, by_split in experiment.experiments.items()
        }

    results = experiment.run(of_selected, distributed.is_main())
    if results is not None:
        results.write(args.metrics_dir)
        shards.remove()
        print(f"Wrote {args.metrics_dir / 'counterfactual.json'}")


if __name__ == "__main__":
    raise SystemExit(main())
