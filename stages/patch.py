"""Stage `patch`: can head outputs of a correctly answered expression repair a wrongly answered one?"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from pilot.arithmetic.examples import HALVES, buckets_by_length, read_examples
from pilot.arithmetic.prompts import prompts_of
from pilot.arithmetic.scoring import score_model
from pilot.arithmetic.vocabulary import decode
from pilot.errors import PilotError
from pilot.experiments.params import PatchParams, SweepParams
from pilot.experiments.repair import RepairExperiment, control_heads
from pilot.experiments.selection import pipeline_targets, read_selection
from pilot.experiments.walkthrough import RULE, NoTransplant, Walkthrough
from pilot.interventions import (
    HeadPatch,
    Intervention,
    at_positions,
    check_heads,
    parse_heads,
    parse_positions,
    single_heads,
)
from pilot.models.checkpoint import load_model
from pilot.models.transformer import ModelConfig
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import write_json
from pilot.runtime.schema import load_section
from pilot.sweep import SweepEngine

GUIDE_HEAD = HeadPatch(2, 2)
METRICS_FILE = Path("metrics/patching.json")


def _parser() -> Parser:
    parser = Parser(prog="patch-pilot", description=__doc__)
    parser.add_config()
    parser.add_argument("--checkpoint", type=Path, required=True, help="such as runs/pilot/checkpoint_best.pt")
    parser.add_argument(
        "--test-path", type=Path, default=Path("data/pilot_test_paren.jsonl"), help="examples (default: %(default)s)"
    )
    parser.add_argument(
        "--layer", type=int, help="with --head: the head to patch (default: the selected ones and L2-H2)"
    )
    parser.add_argument("--head", type=int, help="see --layer")
    parser.add_argument("--heads", metavar="L.H,L.H", help="heads to patch together, across layers: 2.2,2.3,3.1")
    parser.add_argument("--positions", metavar="A:B", help="patch positions A to B-1 only (default: all)")
    parser.add_argument("--control-head", type=int, help="head of the same layer for control 1 (default: the next one)")
    parser.add_argument(
        "--metric", choices=("exact_match", "final_token"), help="(default: patch.metric of the config)"
    )
    parser.add_argument("--half", choices=HALVES, default="confirm", help="lines that count (default: %(default)s)")
    parser.add_argument("--selection", type=Path, default=Path("metrics/selection.json"), help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help=f"(default: {METRICS_FILE}; none if you choose heads or positions)")
    parser.add_device()
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    device = resolve_device(args.device)
    params = load_section(args.config, "patch", PatchParams)
    impl = load_section(args.config, "sweep", SweepParams).impl
    span = parse_positions(args.positions) if args.positions else None
    named = _named_target(args)
    if named and span:
        named = at_positions(named, *span)
    model = load_model(args.checkpoint, device)
    examples = read_examples(args.test_path, model.config.context)
    metric = args.metric or params.metric
    correct = getattr(score_model(model, buckets_by_length(examples)), metric).numpy()
    experiment = RepairExperiment(SweepEngine(model, impl), prompts_of(examples), correct, metric)
    descriptions = [f"{e.expression} = {e.result} (seq_len: {e.seq_len})" for e in examples]
    walkthrough = Walkthrough(experiment, str(args.checkpoint), descriptions, decode)

    if named:
        told, targets = [named], _with_controls(named, model.config)
    else:
        ranked, k = read_selection(args.selection, model.config)
        top = ranked[:k]
        told = [(patch,) for patch in top] + ([top] if len(top) > 1 else [])
        if GUIDE_HEAD not in top and (GUIDE_HEAD,) in single_heads(model.config):
            told.append((GUIDE_HEAD,))
        targets = pipeline_targets(ranked, k, () if span else params.position_ranges)
        if span:
            told = [at_positions(target, *span) for target in told]
            targets = {f"{name}@{args.positions}": at_positions(target, *span) for name, target in targets.items()}
    output = args.output or (None if named or span else METRICS_FILE)
    try:
        for target in told:
            walkthrough.tell(target, args.control_head)
    except NoTransplant as error:
        if not output:
            raise
        print(f"Nothing to tell. {error}\n")  # the counts are results too, of an early checkpoint for instance

    lines = HALVES[args.half]
    results = experiment.rates(targets, lines, params.donors_per_recipient, params.seed, progress=True)
    _print_rates(results, metric)
    if output:
        write_json(output, results)
        print(f"Wrote {output}")


def _named_target(args: Namespace) -> Intervention | None:
    """The heads that the options name, None if they name none."""
    if (args.layer is None) != (args.head is None):
        raise PilotError("--layer and --head go together")
    if args.control_head is not None and args.layer is None:
        raise PilotError("--control-head goes with --layer and --head")
    if args.layer is not None and args.heads:
        raise PilotError("choose heads with --layer and --head or with --heads, not both")
    if args.layer is None:
        return parse_heads(args.heads) if args.heads else None
    if args.control_head == args.head:
        raise PilotError(f"--control-head {args.head} is the target itself: choose another head")
    return (HeadPatch(args.layer, args.head),)


def _with_controls(target: Intervention, config: ModelConfig) -> dict[str, Intervention]:
    """The target, and every other head of its layer; for several heads as many others of the same layers."""
    check_heads(target, config)
    targets = {"+".join(patch.name for patch in target): target}
    if len(target) == 1:
        layer = target[0].layer
        others = [HeadPatch(layer, head) for head in range(config.n_heads) if head != target[0].head]
        controls = [at_positions((other,), target[0].start, target[0].stop) for other in others]
    else:
        controls = [c for c in [control_heads(target, config)] if c]
    return targets | {"control " + "+".join(patch.name for patch in control): control for control in controls}


def _print_rates(results: dict[str, Any], metric: str) -> None:
    print(f"{RULE}\nOVER ALL PAIRS: wrong answers repaired ({metric}), with 95 % interval\n{RULE}")
    print(
        f"{results['wrong_answers']} wrong answers among {results['examples']} examples (accuracy "
        f"{results['accuracy']:.1%}); {results['pairs']['right_to_wrong']} pairs right -> wrong, "
        f"{results['pairs']['wrong_to_wrong']} pairs wrong -> wrong"
    )
    rows = [
        [name, *(_rate(rates, kind, "fixed") for kind in results["pairs"]), _rate(rates, "right_to_wrong", "adopted")]
        for name, rates in results["repair"].items()
    ]
    print(tabulate(rows, headers=["patched", "right -> wrong", "wrong -> wrong", "gives donor's answer"]))


def _rate(rates: dict[str, Any], kind: str, outcome: str) -> str:
    if kind not in rates:
        return "no pairs"
    rate = rates[kind][outcome]
    return f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"


if __name__ == "__main__":
    raise SystemExit(main())
