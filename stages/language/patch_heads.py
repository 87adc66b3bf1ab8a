"""Which attention heads of a language model carry what tells two prompts apart, alone and together?

Patches every head of the model on your pairs of prompts, both ways and with controls, then every set of the heads of
largest effect, and writes one page, report.html, and its numbers. A run that was killed resumes when the same command
is given again. PILOT_PROCESSES=4 shares the work among processes.

A file of pairs has one JSON object a line: {"clean": "The key to the cabinets", "clean_answer": " is", "corrupt": "The
keys to the cabinets", "corrupt_answer": " are", "edit": "number", "split": "select"}. Heads are chosen on pairs whose
split is "select" and judged on those whose split is "confirm".
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from pathlib import Path

import torch

from pilot.experiments.language import counterfactual, model_shards, select_players
from pilot.experiments.params import CounterfactualParams
from pilot.experiments.parts import shared_engine
from pilot.experiments.players import PlayersParams, ranked
from pilot.experiments.subsets import MOST_HEADS
from pilot.experiments.text_examples import TextExamplesParams, text_examples
from pilot.experiments.text_pairs import answered_pairs, rates
from pilot.interventions import single_heads
from pilot.language.load import load_language_model, load_tokenizer
from pilot.language.pairs import read_text_pairs, write_text_pairs
from pilot.language.params import PairsParams
from pilot.language.tasks import TASKS
from pilot.reporting.language.page import write_page
from pilot.reporting.language.subject import subject_of
from pilot.reporting.provenance import versions
from pilot.runtime import distributed
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import write_json, write_text
from pilot.runtime.schema import validated
from pilot.sweep.engine import IMPLS

LEVEL = 0.05  # of the tests, corrected for their number


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="patch-heads", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder or a GGUF file")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pairs", type=Path, help="a file of your own pairs")
    source.add_argument("--task", choices=sorted(TASKS), help="pairs that are made from templates")
    parser.add_argument("--output-dir", type=Path, required=True, help="for the page and its numbers; no other run's")

    def add(name: str, kind: type, default: object, text: str) -> None:
        parser.add_argument(name, type=kind, default=default, help=f"{text} (default: %(default)s)")

    add("--per-split", int, 32, "with --task: pairs to choose heads on, and as many to judge them on")
    add("--players", int, 12, f"heads whose sets are all patched, 1 to {MOST_HEADS}; each one more doubles the time")
    parser.add_argument(
        "--method",
        choices=["exact", "attribution+verify"],
        default="exact",
        help="how the players are found: every head is patched on every pair, or, for models with many heads, only "
        "those that gradients and patching on a sample of the pairs do not show to be small (default: %(default)s)",
    )
    add("--min-recovery", float, 0.05, "attribution+verify finds the heads that recover more than this share")
    add("--miss-rate", float, 0.05, "probability that attribution+verify misses one of them")
    add("--set-pairs", int, 16, "pairs of each split that sets, and heads position by position, are patched on")
    add("--min-logit-gap", float, 1.0, "how far apart the logit differences of a pair's two runs are at least")
    add("--min-effect", float, 0.1, "a sufficient or necessary head recovers more than this share")
    add("--min-interaction", float, 0.02, "two heads are redundant if they interact by more than this share")
    add("--random-sets", int, 20, "sets of as many heads as there are players, drawn as a control")
    add("--tolerance", float, 0.01, "how far rounding may move a logit difference that must stay the same")
    parser.add_argument(
        "--resamples",
        type=int,
        help="bootstrap resamples behind intervals and tests (default: 20000, or what the number of heads needs)",
    )
    add("--examples", int, 4, "worked examples on the page")
    add("--seed", int, 0, "of pairs that are made, of random sets, and of bootstraps")
    parser.add_argument(
        "--impl", choices=IMPLS, default="auto", help="how forwards are computed (default: %(default)s)"
    )
    parser.add_device()
    args = parser.parse_args(argv)
    distributed.launch("stages.language.patch_heads", sys.argv[1:] if argv is None else argv)
    with distributed.process_group(resolve_device(args.device), fixed_threads=True) as device:
        _run(args, device)


def _run(args: Namespace, device: torch.device) -> None:
    made = validated("patch-heads", {"seed": args.seed, "per_split": args.per_split}, PairsParams)
    n_examples = validated("patch-heads", {"pairs": args.examples}, TextExamplesParams).pairs
    own = read_text_pairs(args.pairs) if args.pairs else None  # before the model, which takes longer
    tokenizer = load_tokenizer(args.model)
    pairs = TASKS[args.task].pairs(made.per_split, made.seed, tokenizer) if own is None else own
    model = load_language_model(args.model, device)
    players_params, params = _params(args, len(single_heads(model)))
    answered = distributed.from_main(lambda: answered_pairs(model, tokenizer, pairs, args.min_logit_gap))
    print(rates(answered), flush=True)
    engine = shared_engine(model, args.impl)
    shards = model_shards(args.output_dir / ".state" / "sweeps", engine, device, args.model)
    own_selection = select_players(engine, answered, players_params, shards)
    selection = distributed.from_main(lambda: own_selection)
    assert selection is not None
    players = ranked(selection)
    results = counterfactual(engine, tokenizer, answered, players, selection["stability"], params, shards)
    if results is None:
        return
    examples = text_examples(model, tokenizer, answered, players, n_examples)
    write_text_pairs(args.output_dir / "pairs.jsonl", answered.text)
    write_json(args.output_dir / "pairs.json", answered.numbers)
    write_json(args.output_dir / "selection.json", selection)
    results.write(args.output_dir)
    write_text(args.output_dir / "examples.json", json.dumps(examples, ensure_ascii=False) + "\n")
    write_page(
        args.output_dir,
        args.output_dir / "examples.json",
        args.output_dir / "report.html",
        subject=subject_of(args.model.stem, args.task or args.pairs.stem),
        provenance={
            "Model": {"path": str(args.model)},
            "Parameters": {"pairs": args.task or str(args.pairs), **players_params.model_dump(), **params.model_dump()},
            "Versions": versions(),
        },
    )
    shards.remove()
    print(f"Wrote {args.output_dir / 'report.html'}")


def _params(args: Namespace, n_heads: int) -> tuple[PlayersParams, CounterfactualParams]:
    """Raises PilotError that names the option for a value out of range."""
    resamples = max(20000, 1 + int(2 * (n_heads + 1) / LEVEL)) if args.resamples is None else args.resamples
    shared = {"seed": args.seed, "resamples": resamples}
    choice = {
        "players": args.players,
        "method": args.method,
        "min_recovery": args.min_recovery,
        "miss_rate": args.miss_rate,
    }
    players = validated("patch-heads", {**shared, **choice}, PlayersParams)
    return players, validated(
        "patch-heads",
        {
            **shared,
            "min_logit_gap": args.min_logit_gap,
            "random_sets": args.random_sets,
            "min_effect": args.min_effect,
            "min_interaction": args.min_interaction,
            "level": LEVEL,
            "tolerance": args.tolerance,
            "exhaustive": True,
            "exhaustive_pairs": args.set_pairs,
        },
        CounterfactualParams,
    )


if __name__ == "__main__":
    raise SystemExit(main())
