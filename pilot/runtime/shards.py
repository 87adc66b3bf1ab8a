"""A long computation in chunks that several processes share, and that goes on after a kill.

What a chunk gives is a shard: a file named by a key of all that decides its bits. A chunk whose shard is there is not
computed again, whoever computed it. The chunks are the same for any number of processes, and so is the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from torch import Tensor
from tqdm import tqdm

from pilot.errors import PilotError
from pilot.runtime import distributed
from pilot.runtime.archive import pack, unpack
from pilot.runtime.files import remove_leftovers, write_bytes

Chunk = TypeVar("Chunk")
Result = dict[str, Tensor]


class Shards:
    """The shards of one stage, in a folder that all its processes see, on whatever node they run.

    folder   not inside a DVC output: DVC empties those before it runs a stage
    key      fingerprint (pilot.runtime.resume) of what decides the bits of every chunk
    """

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key

    def results(
        self, parameters: dict, chunks: Sequence[Chunk], compute: Callable[[Chunk], Result]
    ) -> Iterator[Result] | None:
        """`compute` of every chunk, in the chunks' order; None in all but the main process, which only help.

        parameters   plain values that decide the bits of these chunks
        chunks       plain values or dataclasses

        Every process of the group must call this, with the same arguments. Process r of N takes chunks r, r + N, ... of
        those that have no shard yet. Raises PilotError if a shard cannot be written.
        """
        paths = [self.folder / f"{self._key(parameters, chunk)}.shard" for chunk in chunks]
        missing = distributed.from_main(lambda: [i for i, path in enumerate(paths) if _read(path) is None])
        done = len(paths) - len(missing)
        if done:
            print(f"Resuming after {done} of {len(paths)} chunks, from {self.folder}", flush=True)
        with tqdm(total=len(paths), initial=done, unit="chunk", disable=None if distributed.is_main() else True) as bar:
            for i in missing[distributed.rank() :: distributed.world_size()]:
                write_bytes(paths[i], pack(compute(chunks[i])))
                bar.update(sum(path.exists() for path in paths) - bar.n)
            distributed.barrier()
            bar.update(len(paths) - bar.n)
        if not distributed.is_main():
            return None
        # A shard that is not there after all, because nodes do not share the folder, costs time and changes nothing.
        return (_read(path) or compute(chunk) for path, chunk in zip(paths, chunks, strict=True))

    def remove(self) -> None:
        """Leave nothing behind: the stage has succeeded. Shards of other keys go too, those of a run given up."""
        for path in self.folder.glob("*.shard"):
            path.unlink(missing_ok=True)
        remove_leftovers(self.folder, "*.shard")
        for folder in (self.folder, self.folder.parent):
            with contextlib.suppress(OSError):  # another computation's state is in it, or there is none
                folder.rmdir()

    def _key(self, parameters: dict, chunk: Chunk) -> str:
        text = json.dumps([self.key, parameters, chunk], sort_keys=True, default=asdict)
        return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> Result | None:
    """The result in a shard; None where there is no shard, and, with a line that says so, where it is damaged."""
    if not path.exists():
        return None
    try:
        return unpack(path)
    except PilotError as error:
        print(f"Computing it again: {error}")
        return None
