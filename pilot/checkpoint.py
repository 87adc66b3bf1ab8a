"""Models on disk: one dict of tensors and plain values, read without executing anything."""

from __future__ import annotations

import io
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from pilot.errors import PilotError
from pilot.files import write_bytes
from pilot.model import ModelConfig, PilotTransformer


def save_model(model: PilotTransformer, path: Path | str, **facts) -> None:
    """Write `config`, `model` (the weights, on the CPU) and `facts` (plain values, such as `epoch`).

    The same weights and facts give the same bytes. Raises PilotError if the file cannot be written.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    # Saved through memory: torch.save names the archive inside after the file, and ours is temporary.
    buffer = io.BytesIO()
    torch.save({"config": asdict(model.config), "model": weights, **facts}, buffer)
    write_bytes(path, buffer.getvalue())


def read_checkpoint(path: Path | str) -> dict:
    """The dict that `save_model` wrote, tensors on the CPU.

    Raises PilotError if the file is missing, truncated or not one of ours. Nothing in it is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise PilotError(f"{path}: no such checkpoint; train one with: dvc repro train")
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles that it goes on to refuse
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what its unpickler, zip reader or the file system happen to raise
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise PilotError(f"{path}: not a readable checkpoint, truncated or of another program ({reason})") from None
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict) or "model" not in content:
        raise PilotError(f"{path}: not a checkpoint of this program: it lacks config and model")
    return content


def load_model(path: Path | str, device: str | torch.device = "cpu") -> PilotTransformer:
    """The model of a checkpoint, in eval mode. Raises PilotError as `read_checkpoint`, and for foreign weights."""
    content = read_checkpoint(path)
    try:
        model = PilotTransformer(ModelConfig(**content["config"]))
        model.load_state_dict(content["model"])
    except (TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise PilotError(f"{path}: its config and weights do not make a model ({reason})") from None
    return model.to(device).eval()
