"""Models on disk: one dict of tensors and plain values, read without executing anything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pilot.errors import PilotError
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.runtime.archive import pack, unpack
from pilot.runtime.files import write_bytes


def checkpoint_bytes(model: PilotTransformer, **facts: Any) -> bytes:
    """`config`, `model` (the weights, on the CPU) and `facts` (plain values, such as `epoch`), packed.

    The same weights and facts give the same bytes.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return pack({"config": asdict(model.config), "model": weights, **facts})


def save_model(model: PilotTransformer, path: Path | str, **facts: Any) -> None:
    """Write `checkpoint_bytes` to `path`. Raises PilotError if the file cannot be written."""
    write_bytes(path, checkpoint_bytes(model, **facts))


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """The dict that `save_model` wrote, tensors on the CPU.

    Raises PilotError if the file is missing, damaged or not one of ours. Nothing in it is executed.
    """
    if not Path(path).is_file():
        raise PilotError(
            f"{path}: no such checkpoint; train one with: dvc repro train (it keeps best, last and "
            "train.snapshot_epochs)"
        )
    content = unpack(path)
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict) or "model" not in content:
        raise PilotError(f"{path}: not a checkpoint of this program: it lacks config and model")
    return content


def load_model(path: Path | str, device: str | torch.device = "cpu") -> PilotTransformer:
    """The model of a checkpoint, in eval mode. Raises PilotError as `read_checkpoint`, and for foreign weights."""
    content = read_checkpoint(path)
    try:
        model = PilotTransformer(ModelConfig(**content["config"]))
        model.load_state_dict(content["model"])
    except (PilotError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise PilotError(f"{path}: its config and weights do not make a model ({reason})") from None
    return model.to(device).eval()
