"""Stage `train`: train the transformer and test it on expressions that it has not seen.

After a kill, the same command resumes from the last saved state. With `torchrun --nproc-per-node=2 -m stages.train`
processes share every batch, and the result is the same within rounding.
"""

from __future__ import annotations

import csv
import io
import sys
from argparse import Namespace
from dataclasses import asdict, astuple, fields
from pathlib import Path

import torch
from tqdm import tqdm

from pilot.arithmetic.examples import buckets_by_length, read_examples
from pilot.arithmetic.grammar import KINDS, kind_of
from pilot.arithmetic.params import DataParams
from pilot.arithmetic.scoring import METRICS, score_model
from pilot.errors import PilotError
from pilot.models.checkpoint import checkpoint_bytes, load_model
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.runtime import distributed
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import remove_leftovers, write_bytes, write_json, write_text
from pilot.runtime.resume import SavedState, fingerprint
from pilot.runtime.schema import load_section
from pilot.training.loop import EpochRecord, Training
from pilot.training.params import ModelParams, TrainParams

CODE = ("pilot.arithmetic", "pilot.models", "pilot.runtime", "pilot.training")  # what training runs


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
    args.metrics_dir = args.metrics_dir or args.output_dir
    device = resolve_device(args.device)
    grammar = load_section(args.config, "data", DataParams).grammar
    model = load_section(args.config, "model", ModelParams)
    params = load_section(args.config, "train", TrainParams)
    config = ModelConfig(context=grammar.longest_line() + 1, **model.model_dump())
    with distributed.process_group(device) as device:
        _train_and_test(args, config, params, device)


def _train_and_test(args: Namespace, config: ModelConfig, params: TrainParams, device: torch.device) -> None:
    paths = {name: args.data_dir / f"pilot_{name}.jsonl" for name in ("train", "val", "test_flat", "test_paren")}
    examples = {name: read_examples(path, config.context) for name, path in paths.items()}
    val = {kind: buckets_by_length([e for e in examples["val"] if kind_of(e.expression) == kind]) for kind in KINDS}
    for kind, buckets in val.items():
        if not buckets:
            raise PilotError(f"{paths['val']}: holds no {kind} expressions; make it again: dvc repro -f generate")
    torch.manual_seed(params.seed)
    model = PilotTransformer(config).to(device)
    distributed.broadcast_parameters(model)
    print(f"Training {model.n_parameters / 1e6:.2f}M parameters on {len(examples['train'])} lines, device {device}")

    key = fingerprint({"model": asdict(config), "train": params.model_dump()}, [Path(__file__), *paths.values()], CODE)
    if distributed.from_main(lambda: key) != key:
        raise PilotError("this process has other parameters, data or code than the main one; give every node the same")
    state = SavedState(args.output_dir.parent / ".state" / f"{args.output_dir.name}.pt", key)
    run = _Run(Training(model, buckets_by_length(examples["train"]), params), state, args)
    run.resume()
    run.training.run(val, run.on_epoch, run.save, progress=distributed.is_main())
    if not distributed.is_main():
        return

    model = load_model(args.output_dir / "checkpoint_best.pt", device)
    test = {}
    for kind in KINDS:
        scores = score_model(model, buckets_by_length(examples[f"test_{kind}"]))
        test[kind] = {metric: getattr(scores, metric).double().mean().item() for metric in METRICS}
        print(f"test {kind}: " + ", ".join(f"{metric} {value:.2%}" for metric, value in test[kind].items()))
    log = run.training.log
    write_json(
        args.metrics_dir / "train.json",
        {"test": test, "best_epoch": _best(log).epoch, "seconds": round(log[-1].seconds, 1)},
    )
    state.remove()


class _Run:
    """Training and its files: checkpoints and log in the output folders, and the state, which holds both.

    The state lies beside the output folder, because DVC empties that one before it runs the stage again.
    """

    def __init__(self, training: Training, state: SavedState, args: Namespace):
        self.training, self.state = training, state
        self.output_dir, self.log_path = args.output_dir, args.metrics_dir / "training.csv"
        self.checkpoints: dict[str, torch.Tensor] = {}  # by file name, the bytes

    def resume(self) -> None:
        """Resume from the main process's last saved state, if it has one, and restore the checkpoints and the log."""
        saved = distributed.from_main(self.state.load)
        if saved is None:
            return
        self.training.load_state_dict(saved["training"])
        self._write(saved["checkpoints"])
        epoch, step = divmod(self.training.step, self.training.steps_per_epoch)
        print(f"Resuming after epoch {epoch}, step {step} of {self.training.steps_per_epoch}, from {self.state.path}")

    def save(self) -> None:
        if distributed.is_main():
            self.state.save({"training": self.training.state_dict(), "checkpoints": self.checkpoints})

    def on_epoch(self, record: EpochRecord) -> None:
        names = ["checkpoint_last.pt"]
        if record == _best(self.training.log):
            names.append("checkpoint_best.pt")
        if record.epoch in self.training.params.snapshot_epochs:
            names.append(f"checkpoint_epoch_{record.epoch:03d}.pt")
        metrics = {"val": {"flat": record.val_flat, "paren": record.val_paren}}
        content = checkpoint_bytes(self.training.model, epoch=record.epoch, metrics=metrics)
        self._write(dict.fromkeys(names, torch.frombuffer(bytearray(content), dtype=torch.uint8)))
        tqdm.write(  # above the progress bar, where there is one
            f"epoch {record.epoch:3d}  loss {record.loss:.4f}  validation: flat {record.val_flat:.1%}, "
            f"paren {record.val_paren:.1%}  {record.seconds:.0f} s"
        )
        sys.stdout.flush()

    def _write(self, checkpoints: dict[str, torch.Tensor]) -> None:
        self.checkpoints.update(checkpoints)
        if distributed.is_main():
            for name, content in checkpoints.items():
                remove_leftovers(self.output_dir / name)
                write_bytes(self.output_dir / name, content.numpy().tobytes())
            remove_leftovers(self.log_path)
            write_text(self.log_path, _csv(self.training.log))


def _best(log: list[EpochRecord]) -> EpochRecord:
    """The first epoch of the highest accuracy on parenthesised validation lines."""
    return max(log, key=lambda record: record.val_paren)


def _csv(log: list[EpochRecord]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(EpochRecord))
    writer.writerows(astuple(record) for record in log)
    return text.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
