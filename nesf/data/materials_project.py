"""Crystals from the Materials Project, through pymatgen's own client, resumable.

The key is taken from the environment variable PMG_MAPI_KEY or MP_API_KEY and goes nowhere else.
Data of the Materials Project is CC BY 4.0 (cite Jain et al., APL Materials 1, 011002, 2013), save
for what came from GNoME, which is CC BY-NC 4.0 and left out unless asked for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nesf
from nesf.data.beside import list_rejected
from nesf.data.container import writing
from nesf.data.mp_client import Asker, Client, Query, api_key, open_client
from nesf.data.packed import PackedSet, PackReport, join_files
from nesf.data.records import ReadOptions, Rejected, Row
from nesf.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

__all__ = ["Client", "Query", "fetch"]

LICENCE = "CC BY 4.0"
GNOME_LICENCE = "CC BY-NC 4.0"
ROWS_A_SHARD = 200  # ids that one request can name
_GNOME_BATCH = "gnome_r2scan_statics"  # how the Materials Project marks rows that came from GNoME
_NUMBERS = ("energy_above_hull", "formation_energy_per_atom", "band_gap")
_FIELDS = ("material_id", "structure", "formula_pretty", "builder_meta", *_NUMBERS)


@dataclass(frozen=True)
class _Job:
    """One fetch, with what all its steps share."""

    asker: Asker
    query: Query
    include_gnome: bool
    folder: Path


def fetch(
    query: Query,
    output: str | Path,
    include_gnome: bool = False,
    client: Client | None = None,
    progress: bool = True,
    pause_s: float = 2.0,
) -> PackReport:
    """Fetch crystals into a packed set, with a manifest beside it.

    Beside `NAME.nesf` lie `NAME.manifest.json` (query, date, versions, licence, ids), and
    `NAME.parts` with a list of ids and one packed set for each 200 of them. A fetch that was broken
    off goes on with the parts that are missing; to fetch newer data, remove `NAME.parts`.

    Args:
        query: what to fetch.
        output: the packed set to write.
        include_gnome: take rows that came from GNoME, too (non-commercial: CC BY-NC 4.0).
        client: asked instead of pymatgen's, which needs a key.
        progress: show a progress bar.
        pause_s: before a request is tried again, s; doubled each time.

    Returns:
        Counts, and where rejected rows are listed.

    Raises:
        InputError: there is no key, nothing matches, or `NAME.parts` belongs to another query.
        NesfError: the Materials Project did not answer; the parts so far are kept.
    """
    from tqdm import tqdm

    output = Path(output)
    key = "" if client is not None else api_key()
    asker = Asker(client or open_client(key), key, pause_s)
    job = _Job(asker, query, include_gnome, output.with_suffix(".parts"))
    plan = _plan(job)
    chunks = list(_chunks(plan["ids"]))
    paths = [job.folder / f"shard-{i:05d}.nesf" for i in range(len(chunks))]
    steps = zip(paths, chunks, strict=True)
    bar = tqdm(steps, "fetching", len(chunks), disable=not progress, file=sys.stderr, unit=" parts")
    for done, (path, ids) in enumerate(bar):
        if not _is_done(path, ids):
            _fetch_shard(job, path, ids, f"{done} of {len(chunks)} parts are there")
    return _finish(job, output, plan, paths)


def _plan(job: _Job) -> dict[str, Any]:
    """The ids to fetch: as listed by the run that began, or listed now."""
    path = job.folder / "plan.json"
    asked = {**asdict(job.query), "include_gnome": job.include_gnome}
    if path.exists():
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            same = plan["asked"] == asked and isinstance(plan["ids"], list)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read; remove {job.folder} to start anew") from error
        if not same:
            raise InputError(
                f"{job.folder} holds parts of another query; choose another output, or remove it"
            )
        return plan
    criteria = {"deprecated": False, **job.query.criteria}
    if not job.include_gnome:
        criteria["batch_id_not_eq"] = _GNOME_BATCH
    fields = ["material_id", "builder_meta"]
    documents = job.asker.search("nothing was fetched yet", _fields=fields, **criteria)
    ids = {str(d["material_id"]) for d in documents if job.include_gnome or not _is_gnome(d)}
    if not ids:
        raise InputError(f"no material of the Materials Project matches {criteria}")
    plan = {
        "asked": asked,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "ids": sorted(ids, key=lambda name: (len(name), name)),
    }
    _write_json(path, plan)
    return plan


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), ROWS_A_SHARD):
        yield list(ids[start : start + ROWS_A_SHARD])


def _is_done(path: Path, ids: list[str]) -> bool:
    """Whether a sound shard of these ids is there."""
    if not path.exists():
        return False
    try:
        return PackedSet.load(path).provenance.get("asked") == ids
    except InputError:  # damaged: fetch it again
        return False


def _fetch_shard(job: _Job, path: Path, ids: list[str], state: str) -> None:
    documents = {
        str(document["material_id"]): document
        for document in job.asker.search(state, _fields=list(_FIELDS), material_ids=ids)
    }
    rows, rejected, outside = [], [], []
    versions, gnome = set(), []
    for name in ids:
        document = documents.get(name)
        if document is None:
            rejected.append({"id": name, "reason": "the Materials Project returned no such row"})
            continue
        if _is_gnome(document):
            if not job.include_gnome:
                outside.append(name)
                continue
            gnome.append(name)
        versions.add(str(_meta(document, "database_version") or "unknown"))
        try:
            structure = _structure(document["structure"], job.query)
        except (InputError, ValueError, KeyError, TypeError) as error:
            rejected.append({"id": name, "reason": " ".join(str(error).split())})
            continue
        if structure is None:
            outside.append(name)
        else:
            rows.append(Row(name, structure, _properties(document), "Materials Project"))
    provenance = {
        "asked": ids,
        "rejected_rows": rejected,
        "outside": outside,
        "gnome": gnome,
        "database_versions": sorted(versions),
    }
    PackedSet.from_rows(rows, provenance).save(path)


def _structure(structure: Structure, query: Query) -> Structure | None:
    """The bare crystal in the wanted cell; None if that is larger than wanted.

    Raises:
        InputError: the readers' checks refuse it.
    """
    from pymatgen.core import Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    from nesf.data.checks import check_structure

    check_structure(structure, ReadOptions(min_distance=0.0))
    if query.conventional:
        structure = SpacegroupAnalyzer(structure).get_conventional_standard_structure()
    if query.max_atoms is not None and len(structure) > query.max_atoms:
        return None
    # the edge itself is allowed, whatever the last digit says
    if query.max_length is not None and max(structure.lattice.abc) > query.max_length + 1e-6:
        return None
    symbols = [site.specie.symbol for site in structure]
    bare = Structure(structure.lattice, symbols, structure.frac_coords % 1.0)
    check_structure(bare)
    return bare


def _properties(document: Mapping[str, Any]) -> dict[str, float | str]:
    """Formula, and energies (eV/atom) and band gap (eV) where they are known."""
    found: dict[str, float | str] = {"formula": str(document.get("formula_pretty") or "")}
    found |= {name: float(document[name]) for name in _NUMBERS if document.get(name) is not None}
    return found


def _meta(document: Mapping[str, Any], name: str) -> Any:
    """An entry of `builder_meta`, which may come as a dict or as an object."""
    meta = document.get("builder_meta")
    return meta.get(name) if isinstance(meta, Mapping) else getattr(meta, name, None)


def _is_gnome(document: Mapping[str, Any]) -> bool:
    return _meta(document, "batch_id") == _GNOME_BATCH or _meta(document, "license") == "BY-NC"


def _finish(job: _Job, output: Path, plan: Mapping[str, Any], paths: list[Path]) -> PackReport:
    """Join the parts, list what was rejected, and write the manifest."""
    parts = [PackedSet.load(path, verify=False) for path in paths]
    ids = [name for part in parts for name in part.ids]
    gathered: dict[str, list[Any]] = {
        name: [item for part in parts for item in part.provenance[name]]
        for name in ("rejected_rows", "outside", "gnome", "database_versions")
    }
    if not ids:
        raise InputError(
            f"none of {len(plan['ids'])} materials fits: {len(gathered['outside'])} are outside "
            f"the query's limits, {len(gathered['rejected_rows'])} were rejected"
        )
    licence = f"{LICENCE}; {GNOME_LICENCE} for `gnome_ids`" if gathered["gnome"] else LICENCE
    origin = {
        "source": "https://materialsproject.org",
        "query": plan["asked"],
        "date": plan["date"],
        "licence": licence,
    }
    join_files(paths, output, origin)
    manifest = {
        **origin,
        "versions": {
            "database": sorted(set(gathered["database_versions"])),
            "nesf": nesf.__version__,
            "pymatgen": version("pymatgen"),
        },
        "cite": "Jain et al., APL Materials 1, 011002 (2013), https://doi.org/10.1063/1.4812323",
        "outside_limits": len(gathered["outside"]),
        "rejected": gathered["rejected_rows"],
        "gnome_ids": gathered["gnome"],
        "ids": ids,
    }
    _write_json(output.with_suffix(".manifest.json"), manifest)
    rows = [Rejected("Materials Project", None, **one) for one in gathered["rejected_rows"]]
    return PackReport(output, len(ids), len(rows), list_rejected(output, rows))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with writing(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
