"""Stage `report`: the pictures, and the one page that tells it all."""

from __future__ import annotations

import csv
from pathlib import Path

from jinja2 import UndefinedError

from pilot.cli import Parser, command
from pilot.errors import PilotError
from pilot.figures import ablation_figure, repair_by_head_figure, repair_figure, training_figure
from pilot.files import read_json, read_text, write_bytes, write_text
from pilot.params import load_params
from pilot.report import html_page, png

STAGE_OF = {"train": "train", "ablation": "ablate", "selection": "select", "patching": "patch"}


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.report", description=__doc__)
    parser.add_config()
    parser.add_argument("--metrics-dir", type=Path, default=Path("metrics"), help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/report.html"), help="(default: %(default)s)")
    args = parser.parse_args(argv)
    params = load_params(args.config)
    results = {name: read_json(args.metrics_dir / f"{name}.json", made_by=stage) for name, stage in STAGE_OF.items()}
    try:
        names = _names(results["selection"]["heads"], results["patching"]["repair"])
        figures = {
            "training": training_figure(_columns(args.metrics_dir / "training.csv")),
            "ablation": ablation_figure(results["ablation"]["impact"]),
            "repair_by_head": repair_by_head_figure(results["patching"]["repair"]),
            "repair": repair_figure(results["patching"]["repair"], names),
        }
        images = {name: png(figure) for name, figure in figures.items()}
        page = html_page(results, images, names, params)
    except (KeyError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise PilotError(
            f"{args.metrics_dir}: results of another version, or damaged ({error!r}); run: dvc repro -f"
        ) from None
    for name, image in images.items():
        write_bytes(args.metrics_dir / "figures" / f"{name}.png", image)
    write_text(args.output, page)
    print(f"Wrote {args.output} and {len(images)} pictures in {args.metrics_dir / 'figures'}")


def _names(heads: dict, repair: dict) -> dict[str, str]:
    """What to call the selected heads and the sets of heads, by their key, in the order of the picture."""
    k = sum(head["selected"] for head in heads.values())
    names = {name: name for name, head in heads.items() if head["selected"]}
    for key in repair:
        if key == "top_k":
            names[key] = f"the {k} selected heads"
        elif key.startswith("top_k@"):
            names[key] = f"the {k} selected, positions {key.removeprefix('top_k@')}"
        elif key == "bottom_k":
            names[key] = f"the {k} lowest-ranked heads"
        elif key == "all_heads":
            names[key] = "all heads"
    return names


def _columns(path: Path) -> dict[str, list[float]]:
    rows = list(csv.DictReader(read_text(path).splitlines()))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


if __name__ == "__main__":
    raise SystemExit(main())
