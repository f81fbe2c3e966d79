"""A container in several files: their names, the index that binds them, and how they appear.

The names of shards hold a tag of their content, so that a new result never stands in the place of
an old one: all shards are there before the index, renamed in one step, makes them the result, and
only then are the old ones removed. See "Writing" in docs/format.md.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqcli.errors import InputError, UsageError, quoted
from tqcli.jsonfile import read_json
from tqcli.kv import checksum
from tqcli.kv.atomic import blamed, replacing, sync_folder
from tqcli.kv.writer import TensorWriter

INDEX_SUFFIX = ".index.json"
SUFFIX = ".safetensors"
_MAX_INDEX_BYTES = 64 << 20
_TAG_DIGITS = 12
_NUMBERED = r"-([0-9a-f]{12}-)?[0-9]{5}-of-[0-9]{5}"


@dataclass(frozen=True)
class Index:
    """What a shard index says.

    Attributes
    ----------
    homes : mapping
        File name of the shard that holds each tensor.
    checksum : str or None
        Of the checksums of all shards, in the order of their names.
    """

    homes: Mapping[str, str]
    checksum: str | None

    @property
    def shards(self) -> list[str]:
        """File names, ascending."""
        return sorted(set(self.homes.values()))


def read_index(path: str) -> Index:
    """Read and check a shard index.

    Raises
    ------
    InputError
        If it is none, or names a file that does not lie beside it.
    """
    index = read_json(path, "a shard index", _MAX_INDEX_BYTES)
    homes = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(homes, dict) or not homes:
        raise InputError(
            f"{path}: no weight_map in the index; it maps names of tensors to files beside it"
        )
    for name, shard in homes.items():
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".."):
            raise InputError(
                f"{path}: {quoted(name)}: shard {quoted(shard)} is not the name of a file beside "
                "the index"
            )
    metadata = index.get("metadata")
    promised = metadata.get("checksum") if isinstance(metadata, dict) else None
    if promised is not None:
        checksum.require_checksum(promised, f"{path}: checksum")
    return Index(homes, promised)


def old_shards(index: str) -> list[Path]:
    """The shards of the result that stands at an index; only files named as shards of it."""
    try:
        named = read_index(index).shards if os.path.exists(index) else []
    except InputError:  # no index of ours: what it names is none of our business
        return []
    stem = Path(index).name[: -len(SUFFIX + INDEX_SUFFIX)]
    mine = re.compile(re.escape(stem) + _NUMBERED + re.escape(SUFFIX))
    return [Path(index).parent / name for name in named if mine.fullmatch(name)]


def place_shards(
    index: str,
    writers: Sequence[TensorWriter],
    contents: Sequence[Sequence[str]],
    *,
    total_size: int,
    force: bool,
) -> None:
    """Put finished shards in place, then the index, and remove the shards of the result before.

    Parameters
    ----------
    index : str
        ``*.safetensors.index.json``
    writers : sequence of TensorWriter
        With all tensors written.
    contents : sequence of sequences of str
        Names of the tensors in each.
    total_size : int
        Bytes of data in all of them, for the index.
    force : bool
        Replace files that are there.

    Raises
    ------
    InputError, UsageError
        If the disk refuses, or a file is there that is no shard of just this content. Nothing of
        the result is left then, and the one before it stands.
    """
    sums = [writer.finish() for writer in writers]
    whole = checksum.of_parts(sums)
    tag = whole.partition(":")[2][:_TAG_DIGITS]
    stem, count = index[: -len(SUFFIX + INDEX_SUFFIX)], len(writers)
    paths = [f"{stem}-{tag}-{i + 1:05d}-of-{count:05d}{SUFFIX}" for i in range(count)]
    weight_map = {
        name: os.path.basename(path)
        for path, names in zip(paths, contents, strict=True)
        for name in names
    }
    metadata = {"checksum": whole, "total_size": total_size}
    text = json.dumps({"metadata": metadata, "weight_map": weight_map}, sort_keys=True, indent=1)
    document = f"{text}\n".encode()
    fresh = [path for path in paths if not os.path.lexists(path)]
    before = old_shards(index)
    try:
        for writer, path in zip(writers, paths, strict=True):
            if path not in fresh and not force and not _is_copy(path, writer.header):
                raise UsageError(f"{path}: exists; choose another name or pass --force")
            writer.place(path)
        with blamed(index):
            sync_folder(Path(index).parent)
        with replacing(index, force=force) as file:
            file.write(document)
    except BaseException:
        # An interrupt may come just after the index was renamed: then the result stands.
        if not os.path.isfile(index) or Path(index).read_bytes() != document:
            for path in fresh:
                Path(path).unlink(missing_ok=True)
        raise
    _remove_old(index, [path for path in before if str(path) not in paths])


def _is_copy(path: str, header: bytes) -> bool:
    """Whether a file begins with this header, and so has its checksums."""
    if not os.path.isfile(path):
        return False
    with blamed(path), open(path, "rb") as file:
        return file.read(len(header)) == header


def _remove_old(index: str, paths: Sequence[Path]) -> None:
    if not paths:
        return
    with blamed(index):
        sync_folder(Path(index).parent)
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError:  # in use or protected; no index names it any more
            continue
