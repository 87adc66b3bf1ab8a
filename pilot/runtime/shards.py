"""A long computation in parts that several processes share, and that resumes after a kill.

The result of a part is kept in a file, its shard, whose name is a fingerprint of what the part is computed from. A part
that has a shard is not computed again, whichever process computed it. The parts are the same for any number of
processes, and so is the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor
from tqdm import tqdm

from pilot.errors import PilotError
from pilot.runtime import distributed
from pilot.runtime.archive import pack, unpack
from pilot.runtime.files import remove_leftovers, write_bytes

Part = TypeVar("Part")
Tensors = dict[str, Tensor]

_SHARD = re.compile(r"\.?([0-9a-f]{64}\.shard)(?:\.\d+\.tmp)?")  # finished, or left by a killed writer


class Shards:
    """The shards of one stage, in a folder that all its processes see, on whatever node they run.

    folder   not inside a DVC output: DVC empties those before it runs a stage
    key      fingerprint (pilot.runtime.resume) of what every part is computed from, and of how this machine rounds
    """

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key

    def results(
        self, parameters: Mapping[str, Any], parts: Sequence[Part], compute: Callable[[Part], Tensors]
    ) -> Iterator[Tensors] | None:
        """`compute(part)` of every part, in order; None in all processes but the main one, which only help.

        parameters   plain values that these parts are computed from, besides the key
        parts        plain values or dataclasses

        Every process of the group must call this, with the same arguments. Process r of N takes parts r, r + N, ... of
        those that have no shard yet. Raises PilotError if a shard cannot be written.
        """
        paths = [self.folder / f"{self._key(parameters, part)}.shard" for part in parts]
        missing = distributed.from_main(lambda: [i for i, path in enumerate(paths) if _read(path) is None])
        done = len(paths) - len(missing)
        if done:
            print(f"Resuming after {done} of {len(paths)} parts, from {self.folder}", flush=True)
        with tqdm(total=len(paths), initial=done, unit="part", disable=None if distributed.is_main() else True) as bar:
            for i in missing[distributed.rank() :: distributed.world_size()]:
                write_bytes(paths[i], pack(compute(parts[i])))
                bar.update(sum(path.exists() for path in paths) - bar.n)
            distributed.barrier()
            bar.update(len(paths) - bar.n)
        if not distributed.is_main():
            return None
        unseen = sum(not path.exists() for path in paths)
        if unseen:
            print(
                f"Computing {unseen} of {len(paths)} parts again: other processes computed them, but their shards are "
                f"not in {self.folder} here. Nodes that share this folder, and round alike, save the time",
                flush=True,
            )
        return (_read(path) or compute(part) for path, part in zip(paths, parts, strict=True))

    def remove(self) -> None:
        """Remove all shards, as the stage has succeeded: those of other keys, too, which are of runs given up."""
        ours = (_SHARD.fullmatch(path.name) for path in self.folder.glob("*"))
        for name in {match[1] for match in ours if match}:
            (self.folder / name).unlink(missing_ok=True)
            remove_leftovers(self.folder / name)
        for folder in (self.folder, self.folder.parent):
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()

    def _key(self, parameters: Mapping[str, Any], part: Part) -> str:
        text = json.dumps([self.key, parameters, part], sort_keys=True, default=asdict)
        return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> Tensors | None:
    """The result in a shard; None where there is no shard, and, with a line that says so, where it is damaged."""
    if not path.exists():
        return None
    try:
        return cast(Tensors, unpack(path))
    except PilotError as error:
        print(f"Computing it again: {error}")
        return None
