"""Shards that are put in place one by one, so that an interrupted run can be continued."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kv.atomic import require_new
from tqcli.kv.container import PIECE_BYTES, ContainerWriter, Spec
from tqcli.kv.tensorfile import TensorFile
from tqcli.kv.writer import TensorWriter


class ResumingWriter(ContainerWriter):
    """A :class:`ContainerWriter` whose shards appear as soon as each is whole.

    Shards of an earlier run with the same tensors and the same record are kept, after their
    hashes were checked, and what is written to them again is ignored. Until the index appears at
    the end, nothing can mistake the shards for a dump.

    Attributes
    ----------
    kept : set of str
        Names of tensors that stand in whole shards already.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        specs: Sequence[Spec],
        record: Mapping[str, Any],
        *,
        max_shard_bytes: int | None = None,
        force: bool = False,
    ) -> None:
        super().__init__(path, specs, record, max_shard_bytes=max_shard_bytes, force=force)
        self.kept: set[str] = set()

    def __enter__(self) -> ResumingWriter:
        """Look for whole shards; nothing is opened for writing yet."""
        require_new(self.result, force=self._force)
        self._stack, self._open = ExitStack(), -1
        self._at = {name: i for i, plan in enumerate(self._plans) for name, _, _ in plan}
        if self._sharded:
            for path, plan in zip(self.paths, self._plans, strict=True):
                if Path(path).exists() and self._is_whole(path, plan):
                    self.kept |= {name for name, _, _ in plan}
        return self

    def _is_whole(self, path: str, plan: Sequence[Spec]) -> bool:
        """Whether a shard is just what would be written; one of another dump is an error."""
        try:
            with TensorFile(path) as file:
                have = [(e.name, e.dtype, e.shape) for e in file.entries.values()]
                record = json.loads(file.metadata.get("tq", "{}"))
                known = record.get("tensors", {})
                hashes = {name: known.get(name, {}).get("sha256", "") for name, _, _ in plan}
                if have != list(plan) or record != json.loads(self._describe(plan)(hashes)):
                    raise InputError("other tensors or metadata")
                for entry in file.entries.values():
                    for _ in file.chunks(entry, 1, PIECE_BYTES, hashes[entry.name]):
                        pass
        except (InputError, ValueError, AttributeError) as error:
            if self._force:
                return False
            raise InputError(
                f"{path}: not a whole shard of this dump ({error}); remove it, or pass --force"
            ) from error
        return True

    def write(self, name: str, pieces: Iterable[NDArray[Any]]) -> None:
        """Write the next tensor; the shard before is put in place when a new one begins."""
        if name in self.kept:
            return
        index = self._at[name]
        if index != self._open:
            self._stack.close()
            path, plan = self.paths[index], self._plans[index]
            # not whole (checked above) but there: --force was given, or it is not sharded
            replace = self._force or not self._sharded
            writer = TensorWriter(path, plan, self._describe(plan), force=replace)
            self._writer = self._stack.enter_context(writer)
            self._open = index
        self._writer.write(name, pieces)
