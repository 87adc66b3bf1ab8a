"""Tensors and plain values as bytes, and back without executing anything."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import torch

from pilot.errors import PilotError


def pack(content: object) -> bytes:
    """What `torch.save` would write of `content`, tensors in dicts and lists; the same content gives the same bytes."""
    # Saved through memory: torch.save names the archive inside after the file, and ours is temporary.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def unpack(path: Path | str) -> object:
    """What was packed into the file `path`, tensors on the CPU.

    Raises PilotError for a file that cannot be read, has one wrong bit in its values, or holds other objects.
    """
    try:
        packed = Path(path).read_bytes()
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:  # checks the sums, which torch.load does not
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"bad checksum of {damaged}")
        with warnings.catch_warnings(action="ignore"):  # of pickles that it goes on to refuse
            return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler, the zip readers or the file system happen to raise
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise PilotError(f"{path}: not a readable archive, damaged or of another program ({reason})") from None
