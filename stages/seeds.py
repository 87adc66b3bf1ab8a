"""Do the findings hold for other training seeds? Compares the results of several DVC revisions.

This is no stage, as it needs trainings of other seeds: `dvc exp run -n seed-1 -S train.seed=1`. The report says when
metrics/seeds.json was made from other results than the present ones.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from tabulate import tabulate

from pilot.errors import PilotError
from pilot.reporting.seeds import comparable
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
    columns: dict[str, dict[str, float]] = {}
    shared = None
    for revision in args.revisions:
        params, train, counterfactual, best_sets = read_revision(revision)
        seed = f"seed {params['train'].pop('seed')}"
        shared = shared or params
        if seed in columns:
            raise PilotError(f"{revision}: another of these revisions has training {seed} too")
        if params != shared:
            raise PilotError(f"{revision}: its params.yaml differs from {args.revisions[0]}'s in more than train.seed")
        try:
            columns[seed] = comparable(train, counterfactual, best_sets)
        except (KeyError, TypeError, AttributeError) as error:
            raise PilotError(
                f"{revision}: {METRICS[1]} lacks {error}; run it with counterfactual.exhaustive true"
            ) from None
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[name, *(column.get(name) for column in columns.values())] for name in names]
    print(tabulate(rows, ["", *columns], floatfmt=".3f"))
    write_json(args.output, columns)
    print(f"Wrote {args.output}")


def read_revision(revision: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[dict[str, str]]]:
    """Its params.yaml, METRICS and the rows of BEST_SETS. Raises PilotError if one of them is missing."""
    import dvc.api  # here, since it takes a second
    from dvc.exceptions import DvcException

    try:
        params = dvc.api.params_show("params.yaml", rev=revision)
        train, counterfactual = (dvc.api.metrics_show(name, rev=revision) for name in METRICS)
        return params, train, counterfactual, list(csv.DictReader(dvc.api.read(BEST_SETS, rev=revision).splitlines()))
    except (DvcException, OSError) as error:
        raise PilotError(
            f"{revision}: its results cannot be read ({error}); list what there is: dvc exp list"
        ) from None


if __name__ == "__main__":
    raise SystemExit(main())
