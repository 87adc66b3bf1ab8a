"""Do the findings hold for other training seeds? Sets the results of several DVC revisions side by side.

Heads of differently seeded models have nothing in common but their layer, so what is compared is the recovery of the
selected heads together, that of the best four, of ablation's first four and of four on average, the Shapley values
summed layer by layer and the largest of them, and how many heads are sufficient or necessary.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tabulate import tabulate

from pilot.errors import PilotError
from pilot.interventions import parse_heads
from pilot.reporting.measurements import Rows
from pilot.reporting.summary import SET_SIZE, recovery_of_sets
from pilot.runtime.cli import Parser, command
from pilot.runtime.files import write_json

METRICS = ("metrics/train.json", "metrics/counterfactual.json")
BEST_SETS = "metrics/best_sets.csv"


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.seeds", description=__doc__)
    parser.add_argument("revisions", nargs="+", help="commits, branches or DVC experiments: HEAD seed-1 seed-2")
    parser.add_argument("--output", type=Path, default=Path("metrics/seeds.json"), help="(default: %(default)s)")
    args = parser.parse_args(argv)
    found: dict[str, dict[str, float]] = {}
    shared = None
    for revision in args.revisions:
        params, *results = read_revision(revision)
        seed = f"seed {params['train'].pop('seed')}"
        shared = shared or params
        if seed in found:
            raise PilotError(f"{revision}: another of these revisions has training {seed} too")
        if params != shared:
            raise PilotError(f"{revision}: its params.yaml differs from {args.revisions[0]}'s in more than train.seed")
        found[seed] = flatten(summary(revision, *results))
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    print(
        tabulate(
            [[name, *(values.get(name) for values in found.values())] for name in names], ["", *found], floatfmt=".3f"
        )
    )
    write_json(args.output, found)
    print(f"Wrote {args.output}")


def read_revision(revision: str) -> tuple[dict, dict, dict, list[dict]]:
    """Its params.yaml, METRICS and the rows of BEST_SETS. Raises PilotError if it is not there or lacks them."""
    import dvc.api  # here, since it takes a second
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        params = dvc.api.params_show("params.yaml", rev=revision)
        metrics = (dvc.api.metrics_show(name, rev=revision) for name in METRICS)
        return params, *metrics, list(csv.DictReader(dvc.api.read(BEST_SETS, rev=revision).splitlines()))
    except (DvcException, SCMError, OSError) as error:
        raise PilotError(
            f"{revision}: its results cannot be read ({error}); list what there is: dvc exp list"
        ) from None


def summary(revision: str, train: Mapping, counterfactual: Mapping, best_sets: Rows) -> dict:
    """What is comparable between models, as nested numbers. Raises PilotError for results of another kind."""
    try:
        by_layer = {direction: defaultdict(float) for direction in counterfactual["shapley"]}
        for direction, values in counterfactual["shapley"].items():
            for name, estimate in values.items():
                by_layer[direction][f"L{parse_heads(name)[0].layer}"] += estimate["value"]
        verdicts = counterfactual["verdict"].values()
        return {
            "exact_match": {kind: scores["exact_match"] for kind, scores in train["test"].items()},
            "top_k_recovery": {
                edit: {direction: rows["top_k"]["recovery"]["value"] for direction, rows in by_direction.items()}
                for edit, by_direction in counterfactual["effects"].items()
            },
            f"recovery_of_{SET_SIZE}": recovery_of_sets(best_sets).get("denoising", {}),
            "shapley": by_layer,
            "largest_shapley": {
                direction: max(estimate["value"] for estimate in values.values())
                for direction, values in counterfactual["shapley"].items()
            },
            "heads": {word: sum(verdict[word] for verdict in verdicts) for word in ("sufficient", "necessary")},
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise PilotError(
            f"{revision}: {METRICS[1]} lacks {error}; run it with counterfactual.exhaustive true"
        ) from None


def flatten(values: Mapping, prefix: str = "") -> dict[str, float]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


if __name__ == "__main__":
    raise SystemExit(main())
