"""Tensors and plain values as bytes, and back without executing anything."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import torch
from torch.utils._pytree import tree_leaves

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
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        with warnings.catch_warnings(action="ignore"):  # of pickles that it goes on to refuse
            content = torch.load(_archive_of(records), map_location="cpu", weights_only=True)
        if _storage_bytes(content) != sum(len(record) for name, record in records.items() if "/data/" in name):
            raise zipfile.BadZipFile("tensors and records differ in size")
    except Exception as error:  # whatever the unpickler, the zip readers or the file system happen to raise
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise PilotError(f"{path}: not a readable archive, damaged or of another program ({reason})") from None
    return content


def _archive_of(records: dict[str, bytes]) -> io.BytesIO:
    """A sound archive of records that zipfile has checked.

    torch.load's own reader checks no sums, and one wrong bit in a file's directory makes it skip a record and leave a
    tensor uninitialised, without a word.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    buffer.seek(0)
    return buffer


def _storage_bytes(content: object) -> int:
    """The memory under all tensors of `content`; what several of them share counts once."""
    storages = [leaf.untyped_storage() for leaf in tree_leaves(content) if isinstance(leaf, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
