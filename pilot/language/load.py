"""Models and tokenizers from disk: a checkpoint of this project, a Hugging Face folder, or a GGUF file.

Weights are read from safetensors or GGUF only, nothing is downloaded, and no code that comes with a model is run.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from pilot.errors import PilotError
from pilot.language.extra import INSTALL, require_transformers
from pilot.models.checkpoint import load_model as load_checkpoint
from pilot.models.transformer import PilotTransformer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load_model(path: Path | str, device: str | torch.device = "cpu") -> PilotTransformer | PreTrainedModel:
    """The model at `path`, in eval mode: of a checkpoint of this project, a Hugging Face folder or a GGUF file.

    Raises PilotError, in one line, for what cannot be loaded. Language models need the extra `language`; their weights
    become float32 whatever they are stored as.
    """
    path = Path(path)
    if path.suffix == ".pt" or (path.is_file() and path.suffix != ".gguf"):
        return load_checkpoint(path, device)
    return load_language_model(path, device)


def load_language_model(path: Path | str, device: str | torch.device = "cpu") -> PreTrainedModel:
    """The causal language model in a Hugging Face folder or a GGUF file: float32, in eval mode.

    Quantised weights are dequantised. Raises PilotError, in one line, for what cannot be loaded, and for a model that
    sees later tokens.
    """
    path = Path(path)
    transformers = require_transformers()
    where = _where(path)
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with quiet():
        if path.is_dir():
            config = _read(path, "model", lambda: transformers.AutoConfig.from_pretrained(**where))
            _check_folder(path, config, known=type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING)
            options |= {"config": config, "use_safetensors": True}
        load = transformers.AutoModelForCausalLM.from_pretrained
        model, info = _read(path, "model", lambda: load(**where, **options))
        model.to(device).eval()
        if not _read(path, "model", lambda: _is_causal(model)):
            raise PilotError(f"{path}: a {type(model).__name__} sees later tokens: it is an encoder, not a decoder")
    _check_complete(path, info)
    loaded: PreTrainedModel = model
    return loaded


def load_tokenizer(path: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights in a Hugging Face folder, or in a GGUF file. Raises PilotError without one."""
    path = Path(path)
    transformers, where = require_transformers(), _where(path)
    with quiet():
        tokenizer: PreTrainedTokenizerBase = _read(
            path, "tokenizer", lambda: transformers.AutoTokenizer.from_pretrained(**where)
        )
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # made without its files
        raise PilotError(f"{path}: has no tokenizer; save the model's own there with save_pretrained")
    return tokenizer


def _where(path: Path) -> dict[str, Any]:
    """How transformers finds the model at `path`, and no other. Raises PilotError for what is no model at all."""
    local = {"local_files_only": True, "trust_remote_code": False}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise PilotError(f"{path}: not the folder of a Hugging Face model: it has no config.json")
        return {"pretrained_model_name_or_path": str(path), **local}
    if not path.is_file():
        raise PilotError(f"{path}: no such file or folder; nothing is downloaded: give the path of a model on disk")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise PilotError(f"{path}: not a GGUF file")
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, **local}


def _check_folder(path: Path, config: PretrainedConfig, known: bool) -> None:
    """Raises PilotError for a model of another kind, or without weights that can be read safely."""
    if not known or getattr(config, "is_encoder_decoder", False):
        raise PilotError(f"{path}: a {config.model_type} model is not a causal language model")
    if not any(path.glob("*.safetensors")):
        pickled = next((file.name for pattern in PICKLED for file in path.glob(pattern)), None)
        if pickled is None:
            raise PilotError(f"{path}: has no weights: no file *.safetensors")
        raise PilotError(
            f"{path}: its weights are pickled ({pickled}), which can run code when read; save them as safetensors with "
            "save_pretrained"
        )


def _check_complete(path: Path, info: dict[str, Any]) -> None:
    """Raises PilotError where transformers made up weights that it did not find."""
    problems = dict.fromkeys(info["missing_keys"], "are missing")
    problems |= {name: "have another shape than the config says" for name, *_ in info["mismatched_keys"]}
    if problems:
        name = min(problems)
        others = f" (and {len(problems) - 1} more such)" if len(problems) > 1 else ""
        raise PilotError(f"{path}: the weights {name} {problems[name]}{others}")


@torch.no_grad()
def _is_causal(model: PreTrainedModel) -> bool:
    """Whether a token leaves the logits before it as they are. Configs do not say so reliably."""
    ids = torch.tensor([[0, 0, 0], [0, 0, 1]], device=model.device)
    one, other = model(ids).logits[:, :-1]
    return not (one - other).abs().max() > 1e-4 * one.abs().max()  # NaN says nothing


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block transformers prints no warnings, reports or progress bars: what matters is raised."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        with redirect_stderr(io.StringIO()):  # no setting turns off the bar of the GGUF reader
            yield
    finally:
        logging.set_verbosity(verbosity)


def _read(path: Path, what: str, read: Callable[[], T]) -> T:
    """What `read` returns. Raises PilotError, in one line, for whatever it raises."""
    try:
        return read()
    except MemoryError:
        raise PilotError(f"{path}: the {what} does not fit into memory") from None
    except ImportError as error:
        raise PilotError(f"{path}: {INSTALL} ({_line(error)})") from None
    except Exception as error:  # of transformers, tokenizers, safetensors or gguf
        raise PilotError(f"{path}: its {what} cannot be read ({_line(error)})") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
