"""Stage `planted`: does patching find heads that are known to matter, and only those?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from pilot.errors import PilotError
from pilot.experiments.planted.circuits import KINDS, random_circuit
from pilot.experiments.planted.scores import METHODS, SIZES, Score, false_positives, score
from pilot.runtime.cli import Parser, command
from pilot.runtime.files import write_json


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.planted", description=__doc__)
    parser.add_argument("--placements", type=int, default=50, help="circuits of each kind (default: %(default)s)")
    parser.add_argument("--nulls", type=int, default=400, help="circuits without a head (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("metrics/planted.json"), help="(default: %(default)s)")
    args = parser.parse_args(argv)
    for option, least in {"placements": 1, "nulls": 1, "seed": 0}.items():
        if getattr(args, option) < least:
            raise PilotError(f"--{option} {getattr(args, option)}: must be at least {least}")
    rng = np.random.default_rng(args.seed)
    found = {kind: _found(kind, args.placements, rng) for kind in KINDS}
    rates = false_positives(args.nulls, rng)
    write_json(
        args.output,
        {
            "placements": args.placements,
            "nulls": args.nulls,
            "found": found,
            "false_positives": {name: asdict(rate) for name, rate in rates.items()},
        },
    )

    print(f"Planted heads found, over {args.placements} circuits of each kind; importance in shares of the full effect")
    rows = [[kind, *_row(method, summary)] for kind in KINDS for method, summary in found[kind].items()]
    headers = ["circuit", "method", "AUROC, mean", "AUROC, least", "planted heads", "others at most"]
    print(tabulate(rows, headers=headers, floatfmt=".3f"))
    print(
        f"\nFalse positives of a sign test at 5 %, over {args.nulls} circuits where no head matters, with 95 % interval"
    )
    print(tabulate([[name.replace("_", " "), str(rate)] for name, rate in rates.items()]))
    print(f"Wrote {args.output}")


def _found(kind: str, placements: int, rng: np.random.Generator) -> dict[str, dict]:
    scores = [
        score(random_circuit(kind, *SIZES[rng.integers(len(SIZES))], rng), rng)
        for _ in tqdm(range(placements), desc=kind, unit="circuit", disable=None)
    ]
    return {method: _summary([by_method[method] for by_method in scores]) for method in METHODS}


def _summary(scores: list[Score]) -> dict:
    aurocs = [score.auroc for score in scores]
    return {
        "auroc": {"mean": float(np.mean(aurocs)), "least": min(aurocs)},
        "planted": float(np.mean([score.planted for score in scores])),
        "others": max(score.others for score in scores),
    }


def _row(method: str, summary: dict) -> list:
    name = method.replace("_", " ")
    return [name, summary["auroc"]["mean"], summary["auroc"]["least"], summary["planted"], summary["others"]]


if __name__ == "__main__":
    raise SystemExit(main())
