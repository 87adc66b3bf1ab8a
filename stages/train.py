"""Stage `train`: train the transformer and test it on expressions that it has not seen."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import astuple, fields
from pathlib import Path

import torch
from tqdm import tqdm

from pilot.checkpoint import load_model, save_model
from pilot.cli import Parser, command, resolve_device
from pilot.dataset import buckets_by_length, read_examples
from pilot.errors import PilotError
from pilot.expressions import KINDS, kind_of
from pilot.files import write_json, write_text
from pilot.model import ModelConfig, PilotTransformer
from pilot.params import load_params
from pilot.scoring import METRICS, score_model
from pilot.training import EpochRecord, train


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="train-pilot", description=__doc__)
    parser.add_config()
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of the data (default: %(default)s)")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("runs/pilot"), help="for checkpoints (default: %(default)s)"
    )
    parser.add_argument("--metrics-dir", type=Path, help="for train.json and training.csv (default: the output folder)")
    parser.add_device()
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    params = load_params(args.config)
    metrics_dir = args.metrics_dir or args.output_dir

    config = ModelConfig(context=params.data.grammar.longest_line() + 1, **params.model.model_dump())
    paths = {name: args.data_dir / f"pilot_{name}.jsonl" for name in ("train", "val", "test_flat", "test_paren")}
    examples = {name: read_examples(path, config.context) for name, path in paths.items()}
    val = {kind: buckets_by_length([e for e in examples["val"] if kind_of(e.expression) == kind]) for kind in KINDS}
    for kind, buckets in val.items():
        if not buckets:
            raise PilotError(f"{paths['val']}: holds no {kind} expressions; make it again: dvc repro -f generate")
    torch.manual_seed(params.train.seed)
    model = PilotTransformer(config).to(device)
    print(f"Training {model.n_parameters / 1e6:.2f}M parameters on {len(examples['train'])} lines, device {device}")

    log: list[EpochRecord] = []
    best = -1.0

    def on_epoch(record: EpochRecord) -> None:
        nonlocal best
        log.append(record)
        facts = {"epoch": record.epoch, "metrics": {"val": {"flat": record.val_flat, "paren": record.val_paren}}}
        save_model(model, args.output_dir / "checkpoint_last.pt", **facts)
        if record.val_paren > best:
            best = record.val_paren
            save_model(model, args.output_dir / "checkpoint_best.pt", **facts)
        if record.epoch in params.train.snapshot_epochs:
            save_model(model, args.output_dir / f"checkpoint_epoch_{record.epoch:03d}.pt", **facts)
        write_text(metrics_dir / "training.csv", _csv(log))
        tqdm.write(  # above the progress bar, where there is one
            f"epoch {record.epoch:3d}  loss {record.loss:.4f}  validation: flat {record.val_flat:.1%}, "
            f"paren {record.val_paren:.1%}  {record.seconds:.0f} s"
        )
        sys.stdout.flush()

    train(model, buckets_by_length(examples["train"]), val, params.train, on_epoch)

    model = load_model(args.output_dir / "checkpoint_best.pt", device)
    test = {}
    for kind in KINDS:
        scores = score_model(model, buckets_by_length(examples[f"test_{kind}"]))
        test[kind] = {metric: getattr(scores, metric).double().mean().item() for metric in METRICS}
        print(f"test {kind}: " + ", ".join(f"{metric} {value:.2%}" for metric, value in test[kind].items()))
    best_record = max(log, key=lambda record: record.val_paren)
    write_json(
        metrics_dir / "train.json",
        {"test": test, "best_epoch": best_record.epoch, "seconds": round(log[-1].seconds, 1)},
    )


def _csv(log: list[EpochRecord]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(EpochRecord))
    writer.writerows(astuple(record) for record in log)
    return text.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
