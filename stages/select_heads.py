"""Stage `select`: the top-k heads by what their ablation costs on parenthesised expressions."""

from __future__ import annotations

from pathlib import Path

from tabulate import tabulate

from pilot.errors import PilotError
from pilot.experiments.params import SelectParams
from pilot.experiments.selection import rank_heads
from pilot.runtime.cli import Parser, command
from pilot.runtime.files import read_json, write_json
from pilot.runtime.schema import load_section


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.select_heads", description=__doc__)
    parser.add_config()
    parser.add_argument("--ablation", type=Path, default=Path("metrics/ablation.json"), help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("metrics/selection.json"), help="(default: %(default)s)")
    args = parser.parse_args(argv)
    params = load_section(args.config, "select", SelectParams)
    try:
        ablation = read_json(args.ablation, made_by="ablate")
        impact, confirmed = (
            {name: float(by_kind["paren"]["value"]) for name, by_kind in ablation[half][params.ablation].items()}
            for half in ("select_half", "confirm_half")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PilotError(
            f"{args.ablation}: not the ablation stage's results ({error}); run: dvc repro -f ablate"
        ) from None
    if params.top_k > len(impact):
        raise PilotError(f"{args.config}: select.top_k is {params.top_k}, but the model has {len(impact)} heads")

    heads = rank_heads(impact, confirmed, params.top_k, params.min_impact)
    chosen = [head for head in heads.values() if head["selected"]]
    passing = sum(head["meets_threshold"] for head in chosen)
    write_json(args.output, {"n_selected": len(chosen), "n_selected_meeting_threshold": passing, "heads": heads})

    print(f"Heads by {params.ablation}-ablation impact on parenthesised exact match (threshold {params.min_impact})")
    rows = [
        [
            head["rank"],
            name,
            head["impact"],
            head["confirm_impact"],
            ("selected" if head["selected"] else "")
            + (" (below threshold)" if head["selected"] and not head["meets_threshold"] else ""),
        ]
        for name, head in heads.items()
    ]
    print(tabulate(rows, headers=["rank", "head", "select half", "confirm half", ""], floatfmt="+.4f"))
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    raise SystemExit(main())
