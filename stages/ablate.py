"""Stage `ablate`: what every attention head is worth, on flat and on parenthesised expressions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from pilot.arithmetic.examples import HALVES, read_examples
from pilot.arithmetic.grammar import KINDS
from pilot.arithmetic.prompts import prompts_of
from pilot.experiments.ablation import METHODS, ablated_correct, impact_estimates
from pilot.experiments.donors import mean_donor, resample_donor, zero_donor
from pilot.experiments.params import AblateParams, SweepParams
from pilot.interventions import single_heads
from pilot.models.checkpoint import load_model
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import write_json
from pilot.runtime.schema import load_section
from pilot.sweep import SweepEngine


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="eval-pilot-ablation", description=__doc__)
    parser.add_config()
    parser.add_argument("--checkpoint", type=Path, required=True, help="such as runs/pilot/checkpoint_best.pt")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of the data (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("metrics/ablation.json"), help="where results go (default: %(default)s)"
    )
    parser.add_device()
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    params = load_section(args.config, "ablate", AblateParams)
    sweep = load_section(args.config, "sweep", SweepParams)
    model = load_model(args.checkpoint, device)
    engine = SweepEngine(model, sweep.impl)
    paths = {kind: args.data_dir / f"pilot_test_{kind}.jsonl" for kind in KINDS}
    tests = {kind: prompts_of(read_examples(path, model.config.context)) for kind, path in paths.items()}
    val = prompts_of(read_examples(args.data_dir / "pilot_val.jsonl", model.config.context))
    constant = {"zero": zero_donor(model.config), "mean": mean_donor(model, val)}

    heads = single_heads(model.config)
    names = [head.name for (head,) in heads]
    results: dict[str, Any] = {
        "fused": int(engine.impl == "fused"),
        "baseline": {},
        "impact": {},
        "select_half": {},
        "confirm_half": {},
    }
    for method in METHODS:
        # loss of each example by each head: 1 if only the whole model is right, -1 if only the ablated one is
        losses = {}
        for kind, prompts in tests.items():
            donor = constant.get(method) or resample_donor(prompts, np.random.default_rng(params.seed))
            correct = ablated_correct(engine, prompts, [(), *heads], donor, progress=f"{method} ablation")
            losses[kind] = correct[0].astype(int) - correct[1:]
            results["baseline"][kind] = correct[0].mean()
        for key, lines in (("impact", "all"), ("select_half", "select"), ("confirm_half", "confirm")):
            results[key][method] = {
                name: impact_estimates(
                    {kind: rows[i, HALVES[lines]] for kind, rows in losses.items()}, params.resamples, params.seed
                )
                for i, name in enumerate(names)
            }
        table = [[name, *map(_shown, estimates.values())] for name, estimates in results["impact"][method].items()]
        print(f"\n{method} ablation: exact match lost, with 95 % interval")
        print(tabulate(table, headers=["head", "flat", "paren", "paren - flat"]))
    write_json(args.output, results)
    print(f"\nWithout ablation: flat {results['baseline']['flat']:.1%}, paren {results['baseline']['paren']:.1%}")
    print(f"Wrote {args.output}")


def _shown(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:+.3f} [{estimate['low']:+.3f}, {estimate['high']:+.3f}]"


if __name__ == "__main__":
    raise SystemExit(main())
