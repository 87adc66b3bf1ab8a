"""Do the findings hold for other training seeds? Compares the results of several DVC revisions.

The stage is frozen, so `dvc repro` leaves it alone: it needs trainings of other seeds (docs/checkpoints.md). The report
says when metrics/seeds.json was made from other results than the present ones.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tabulate import tabulate

from pilot.errors import PilotError
from pilot.reporting.seeds import comparable
from pilot.runtime.cli import Parser, command
from pilot.runtime.files import write_json

METRICS = ("metrics/train.json", "metrics/counterfactual.json")
BEST_SETS = "metrics/best_sets.csv"
COMPARED_STAGES = ("train", "ablate", "select", "counterfactual")  # what the compared numbers come from


class Revision(NamedTuple):
    """What a revision holds: its params.yaml, METRICS, the rows of BEST_SETS, and the code that its stages ran.

    code   the hash of each code dependency, by "stage: path", from its dvc.lock
    """

    params: dict[str, Any]
    train: dict[str, Any]
    counterfactual: dict[str, Any]
    best_sets: list[dict[str, str]]
    code: dict[str, str]


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.seeds", description=__doc__)
    parser.add_argument("revisions", nargs="+", help="commits, branches or DVC experiments: HEAD seed-1 seed-2")
    parser.add_argument("--output", type=Path, default=Path("metrics/seeds.json"), help="(default: %(default)s)")
    args = parser.parse_args(argv)
    columns: dict[str, dict[str, float]] = {}
    first = None
    for revision in args.revisions:
        run = read_revision(revision)
        seed = f"seed {run.params['train'].pop('seed')}"
        first = first or run
        if seed in columns:
            raise PilotError(f"{revision}: another of these revisions has training {seed} too")
        if run.params != first.params:
            raise PilotError(f"{revision}: its params.yaml differs from {args.revisions[0]}'s in more than train.seed")
        if changed := sorted(key for key, _ in run.code.items() ^ first.code.items()):
            raise PilotError(
                f"{revision}: its results were made by other code than {args.revisions[0]}'s ({changed[0]}); make them "
                f"again: dvc exp run --temp -f -n {revision} -S train.{seed.replace(' ', '=')} counterfactual"
            )
        try:
            columns[seed] = comparable(run.train, run.counterfactual, run.best_sets)
        except (KeyError, TypeError, AttributeError) as error:
            raise PilotError(
                f"{revision}: {METRICS[1]} lacks {error}; run it with counterfactual.exhaustive true"
            ) from None
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[name, *(column.get(name) for column in columns.values())] for name in names]
    print(tabulate(rows, ["", *columns], floatfmt=".3f"))
    write_json(args.output, columns)
    print(f"Wrote {args.output}")


def read_revision(revision: str) -> Revision:
    """What it holds. Raises PilotError if something is missing."""
    import dvc.api  # here, since it takes a second
    from dvc.exceptions import DvcException

    try:
        params = dvc.api.params_show("params.yaml", rev=revision)
        train, counterfactual = (dvc.api.metrics_show(name, rev=revision) for name in METRICS)
        best_sets = list(csv.DictReader(dvc.api.read(BEST_SETS, rev=revision).splitlines()))
        lock = yaml.safe_load(dvc.api.read("dvc.lock", rev=revision))
    except (DvcException, OSError) as error:
        raise PilotError(
            f"{revision}: its results cannot be read ({error}); list what there is: dvc exp list"
        ) from None
    return Revision(params, train, counterfactual, best_sets, _code_of(lock))


def _code_of(lock: dict[str, Any]) -> dict[str, str]:
    """The hash of each code dependency of COMPARED_STAGES, from the content of dvc.lock."""
    return {
        f"{stage}: {dep['path']}": dep["md5"]
        for stage in COMPARED_STAGES
        for dep in lock["stages"][stage]["deps"]
        if dep["path"].split("/")[0] in ("pilot", "csrc", "stages")
    }


if __name__ == "__main__":
    raise SystemExit(main())
