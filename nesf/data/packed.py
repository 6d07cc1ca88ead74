"""Packing: any readable input into one packed set, in shards if need be, once per content."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nesf.data.beside import REJECTED, beside, list_rejected
from nesf.data.cache import cache_folder, only_one_process
from nesf.data.columns import StringColumn
from nesf.data.container import CHUNK_BYTES, VERSION
from nesf.data.packed_set import PackedSet
from nesf.data.packed_tensors import PackedTensors
from nesf.data.packed_writer import PackedWriter
from nesf.data.splits import read_splits, split_groups, split_ids, write_splits
from nesf.errors import InputError

if TYPE_CHECKING:
    from nesf.data.records import ReadOptions, Rejected, Row

__all__ = [
    "SUFFIX",
    "PackReport",
    "PackedSet",
    "PackedTensors",
    "PackedWriter",
    "StringColumn",
    "join_files",
    "load_or_pack",
    "pack",
    "read_splits",
    "split_groups",
    "split_ids",
    "write_rows",
    "write_splits",
]

SUFFIX = ".nesf"
ROWS_AT_ONCE = 1000
_UNCACHED_OPTIONS = ("workers",)  # how fast, not what
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackReport:
    """What `pack` did.

    Attributes:
        path: the packed set.
        packed: crystals in it.
        rejected: rows that are not.
        rejected_path: where these are listed, if there are any.
    """

    path: Path
    packed: int
    rejected: int
    rejected_path: Path | None


def pack(
    inputs: Sequence[str | Path],
    output: str | Path,
    options: ReadOptions | None = None,
    shard: tuple[int, int] | None = None,
    progress: bool = True,
    held_out: Sequence[str | Path] = (),
) -> PackReport:
    """Read crystals and write them as one packed set.

    Args:
        inputs: files, folders, globs, zips, as `nesf.data.readers` takes them.
        output: the packed set; by custom with the suffix `.nesf`.
        options: of reading.
        shard: (I, N), I from 1 to N: every N-th row of the inputs, beginning with the I-th. The N
            shards hold each row once, and `join_files` makes one set of them.
        progress: show a progress bar.
        held_out: files of crystals that must not be in the set, under whatever id and in whatever
            cell (see `nesf.data.held_out`); they are listed with the rejected rows.

    Returns:
        Counts, and where rejected rows are listed: `NAME.rejected.csv` beside `NAME.nesf`.

    Raises:
        InputError: an input is missing, no row at all could be read, a held-out crystal could not
            be read, or the disk says no.
    """
    from nesf.data.held_out import HeldOut
    from nesf.data.readers import iter_crystals
    from nesf.data.records import ReadOptions, Rejected

    options = options or ReadOptions()
    output = Path(output)
    where = shard_slice(shard)
    rejected: list[Rejected] = []
    provenance = {
        "inputs": [str(item) for item in inputs],
        "options": dataclasses.asdict(options),
        "shard": list(shard) if shard else None,
        "held_out": [str(item) for item in held_out],
    }
    unseen = HeldOut.read(held_out, options, progress) if held_out else HeldOut([])

    def good(results: Iterable[Row | Rejected]) -> Iterator[Row]:
        for result in results:
            if isinstance(result, Rejected):
                rejected.append(result)
            elif (same := unseen.same_as(result)) is not None:
                reason = f"it is the held-out crystal {same}"
                rejected.append(Rejected(result.source, result.row, result.id, reason))
            else:
                yield result

    found = iter_crystals(inputs, options, progress, where)
    with closing(found), PackedWriter(output, provenance) as writer:  # type: ignore[type-var]
        rows = good(found)
        while chunk := list(islice(rows, ROWS_AT_ONCE)):
            writer.append(chunk)
        rejected_path = list_rejected(output, rejected)
        if len(writer) == 0 and shard is None:
            first = f", the first since: {rejected[0].reason}" if rejected else ""
            raise InputError(f"none of {len(rejected)} rows could be packed{first}")
        writer.provenance["rejected"] = len(rejected)
        return PackReport(output, len(writer), len(rejected), rejected_path)


def write_rows(
    output: str | Path, provenance: Mapping[str, Any], rows: Generator[Row, None, None]
) -> PackReport:
    """Write rows that are sound as a packed set, in constant memory.

    Raises:
        InputError: the output cannot be written.
    """
    with closing(rows), PackedWriter(output, provenance) as writer:
        while chunk := list(islice(rows, ROWS_AT_ONCE)):
            writer.append(chunk)
        return PackReport(Path(output), len(writer), 0, None)


def join_files(
    parts: Sequence[str | Path],
    output: str | Path,
    provenance: Mapping[str, Any] | None = None,
) -> PackReport:
    """Put packed sets together in the given order, in constant memory.

    Args:
        parts: packed sets, such as the shards of `pack`.
        output: the packed set to write.
        provenance: of the whole; by default what the parts say.

    Raises:
        InputError: a part is damaged, an id occurs twice, or a shard is missing or given twice.
    """
    if not parts:
        raise InputError("no packed sets were given to join")
    _check_shards(parts)
    output = Path(output)
    origins: list[dict[str, Any]] = []
    with PackedWriter(output, provenance) as writer:
        for part in parts:
            packed = PackedSet.load(part)
            for start in range(0, len(packed), ROWS_AT_ONCE):
                end = min(start + ROWS_AT_ONCE, len(packed))
                writer.extend(packed.select(np.arange(start, end)))
            origins.append({"file": Path(part).name, **packed.provenance})
        rejected = sum(origin.get("rejected", 0) for origin in origins)
        if provenance is None:
            writer.provenance |= {"parts": origins, "rejected": rejected}
        return PackReport(output, len(writer), rejected, None)


def load_or_pack(
    inputs: Sequence[str | Path],
    options: ReadOptions | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """A packed set of the inputs, made once and kept under a key of their content.

    Several processes may ask at once: one packs, the others wait for it.

    Args:
        inputs: as for `pack`; a packed set alone is handed back as it is.
        options: of reading.
        cache_dir: where packed sets are kept; by default `packed` in the user's cache folder.
        progress: show a progress bar while packing.

    Raises:
        InputError: as `pack`; or the cache folder cannot be written.
    """
    from nesf.data.records import ReadOptions

    if not inputs:
        raise InputError("no inputs were given")
    if len(inputs) == 1 and Path(inputs[0]).suffix == SUFFIX and Path(inputs[0]).is_file():
        return Path(inputs[0])
    key = content_key(inputs, options or ReadOptions())
    folder = Path(cache_dir) if cache_dir is not None else cache_folder() / "packed"
    path = folder / key / f"crystals{SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_one_process(path.with_suffix(".lock")):
            if not path.exists():
                pack(inputs, path, options, progress=progress)
    except OSError as error:
        raise InputError(
            f"cannot write the cache {folder} ({error.strerror or error}); "
            "choose another cache folder, or pack the inputs with `nesf data pack`"
        ) from error
    rejected = beside(path, REJECTED)
    if rejected.exists():
        _log.warning("some rows of %s were rejected; they are listed in %s", inputs[0], rejected)
    return path


def content_key(inputs: Sequence[str | Path], options: ReadOptions) -> str:
    """sha256 over the bytes and names of the inputs, the options and the format's version.

    Names count, since ids come from them; the folders above an input do not.

    Raises:
        InputError: an input does not exist or cannot be read.
    """
    wanted = dataclasses.asdict(options)
    for name in _UNCACHED_OPTIONS:
        wanted.pop(name, None)
    digest = hashlib.sha256(json.dumps([VERSION, wanted], sort_keys=True).encode())
    for item in inputs:
        for name, path in _files(item):
            content = hashlib.sha256()
            try:
                with path.open("rb") as file:
                    while data := file.read(CHUNK_BYTES):
                        content.update(data)
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror or error}") from error
            encoded = name.encode("utf-8", "surrogateescape")
            digest.update(f"{len(encoded)}:".encode() + encoded + content.digest())
    return digest.hexdigest()[:32]


def shard_slice(shard: tuple[int, int] | None) -> slice:
    """The rows of shard I of N (from 1) as a slice; all rows for None.

    Raises:
        InputError: I is not one of 1 to N.
    """
    if shard is None:
        return slice(0, None, 1)
    part, parts = shard
    if not 1 <= part <= parts:
        raise InputError(f"shard {part}/{parts} does not exist; give I/N with I from 1 to N")
    return slice(part - 1, None, parts)


def _files(item: str | Path) -> list[tuple[str, Path]]:
    """The files behind an input, with the names that count, in a fixed order."""
    path = Path(item)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file())
        return [(str(p.relative_to(path)), p) for p in found]
    if path.exists() or not glob.has_magic(str(item)):
        return [(path.name, path)]
    return [
        pair for match in sorted(glob.glob(str(item), recursive=True)) for pair in _files(match)
    ]


def _check_shards(parts: Sequence[str | Path]) -> None:
    """Where the parts are shards of one packing, all of them must be there, each once."""
    found: list[tuple[int, int]] = []
    for part in parts:
        shard = PackedSet.load(part, verify=False).provenance.get("shard")
        if shard is None:
            return
        found.append((int(shard[0]), int(shard[1])))
    totals = {total for _, total in found}
    if len(totals) > 1:
        raise InputError(f"the parts are shards of different counts: {sorted(totals)}")
    (total,) = totals
    missing = sorted(set(range(1, total + 1)) - {part for part, _ in found})
    if missing:
        shown = ", ".join(f"{part}/{total}" for part in missing[:5])
        raise InputError(f"{len(missing)} of {total} shards are missing ({shown}); pack them first")
