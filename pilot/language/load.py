"""Language models and their tokenizers from disk: a Hugging Face folder, or a GGUF file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from pilot.errors import PilotError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")

INSTALL = "language models take an extra: pip install 'pilot-patching[language]'"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def is_language_model(path: Path | str) -> bool:
    """Whether `path` is for `load_language_model`: a folder or a GGUF file, not a checkpoint of this project."""
    return Path(path).is_dir() or Path(path).suffix == ".gguf"


def load_language_model(path: Path | str, device: str | torch.device = "cpu") -> PreTrainedModel:
    """The causal language model in a Hugging Face folder or a GGUF file: float32, in eval mode.

    Weights are read from safetensors or GGUF only, nothing is downloaded, and no code that comes with a model is run.
    Weights of fewer bits are dequantised. Raises PilotError, in one line, for what cannot be loaded so.
    """
    path = Path(path)
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
    except ImportError:
        raise PilotError(f"{path}: {INSTALL}") from None
    where = _where(path)
    if path.is_dir():
        config = _read(path, lambda: AutoConfig.from_pretrained(**where))
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
            raise PilotError(f"{path}: a {config.model_type} is not a decoder with a causal language model")
        if not any(path.glob("*.safetensors")):
            pickled = next((file.name for pattern in PICKLED for file in path.glob(pattern)), None)
            raise PilotError(
                f"{path}: holds no weights in safetensors"
                + (
                    f", only {pickled}, which could run code when it is read; convert it with save_pretrained"
                    if pickled
                    else ""
                )
            )
    model: PreTrainedModel = _read(path, lambda: AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32))
    torch.nn.Module.to(model, device)  # transformers' own methods are not typed
    torch.nn.Module.eval(model)
    return model


def load_tokenizer(path: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights. Raises PilotError where there is none."""
    path = Path(path)
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise PilotError(f"{path}: {INSTALL}") from None
    return _read(path, lambda: AutoTokenizer.from_pretrained(**_where(path)), what="tokenizer")


def _where(path: Path) -> dict[str, Any]:
    """How transformers finds the model, and no other. Raises PilotError for what is no model at all."""
    local = {"local_files_only": True, "trust_remote_code": False}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise PilotError(f"{path}: no config.json: not the folder of a Hugging Face model")
        return {"pretrained_model_name_or_path": str(path), "use_safetensors": True, **local}
    if not path.is_file():
        raise PilotError(f"{path}: no such folder or file")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise PilotError(f"{path}: not a GGUF file")
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, **local}


def _read(path: Path, read: Callable[[], T], what: str = "model") -> T:
    try:
        return read()
    except MemoryError:
        raise PilotError(f"{path}: the {what} does not fit into memory") from None
    except ImportError as error:
        raise PilotError(f"{path}: {INSTALL} ({_line(error)})") from None
    except Exception as error:  # whatever transformers, tokenizers, safetensors or gguf happen to raise
        raise PilotError(f"{path}: its {what} cannot be read ({_line(error)})") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
