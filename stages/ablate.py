"""Stage `ablate`: what every attention head is worth, on flat and on parenthesised expressions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from tabulate import tabulate

from pilot.arithmetic.examples import HALVES, buckets_by_length, read_examples
from pilot.arithmetic.grammar import KINDS
from pilot.experiments.ablation import METHODS, ablated_correct, mean_head_outputs
from pilot.experiments.params import AblateParams, SweepParams
from pilot.experiments.statistics import Estimate, bootstrap_difference, bootstrap_mean
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
    impl = SweepEngine(model, sweep.impl).impl
    paths = {kind: args.data_dir / f"pilot_test_{kind}.jsonl" for kind in KINDS}
    tests = {kind: buckets_by_length(read_examples(path, model.config.context)) for kind, path in paths.items()}
    val = read_examples(args.data_dir / "pilot_val.jsonl", model.config.context)
    means = mean_head_outputs(model, buckets_by_length(val))

    heads = single_heads(model.config)
    results: dict = {
        "fused": int(impl == "fused"),
        "baseline": {},
        "impact": {},
        "select_half": {},
        "confirm_half": {},
    }
    for method in METHODS:
        # impact of each head on each example: 1 if only the whole model is right, -1 if only the ablated one is
        impact = {}
        for kind, buckets in tests.items():
            rng = np.random.default_rng(params.seed)
            correct = ablated_correct(model, buckets, [(), *heads], method, means, rng, impl, progress=True)
            impact[kind] = correct[0].astype(int) - correct[1:]
            results["baseline"][kind] = correct[0].mean()
        by_head = {head.name: {kind: impact[kind][i] for kind in KINDS} for i, (head,) in enumerate(heads)}
        estimates = {name: _estimates(values, params) for name, values in by_head.items()}
        results["impact"][method] = {name: _plain(estimate) for name, estimate in estimates.items()}
        for half in ("select", "confirm"):
            lines = HALVES[half]
            results[f"{half}_half"][method] = {
                name: _plain(_estimates({kind: v[lines] for kind, v in values.items()}, params))
                for name, values in by_head.items()
            }
        rows = [[name, *estimate.values()] for name, estimate in estimates.items()]
        print(f"\n{method} ablation: exact match lost, with 95 % interval")
        print(tabulate(rows, headers=["head", "flat", "paren", "paren - flat"]))
    write_json(args.output, results)
    print(f"\nWithout ablation: flat {results['baseline']['flat']:.1%}, paren {results['baseline']['paren']:.1%}")
    print(f"Wrote {args.output}")


def _estimates(values: dict[str, np.ndarray], params: AblateParams) -> dict[str, Estimate]:
    # The same seed for every head: equal values then get equal intervals.
    rng = np.random.default_rng(params.seed)
    return {
        **{kind: bootstrap_mean(values[kind], params.resamples, rng) for kind in KINDS},
        "paren_minus_flat": bootstrap_difference(values["paren"], values["flat"], params.resamples, rng),
    }


def _plain(estimates: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(estimate) for name, estimate in estimates.items()}


if __name__ == "__main__":
    raise SystemExit(main())
