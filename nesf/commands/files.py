"""`nesf data ...`, `evaluate` and `export`: the commands that run no model.

Each is a plain function that returns its exit code. What does the work is imported by the
function, so that asking for help stays quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nesf.commands.arguments import Files, listed
from nesf.data.records import ReadOptions
from nesf.errors import InputError


def pack_files(
    inputs: Sequence[str],
    output: str,
    shard: str | None = None,
    held_out: Files = None,
    progress: bool = True,
    read: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
) -> int:
    """Pack crystals into one file that training reads without parsing.

    Args:
        inputs: CIF or POSCAR files, folders, globs or zips of them, tables with a cif column
            (.csv, .csv.gz, .parquet), .extxyz, .json, .jsonl or packed .nesf files.
        output: the packed set, a .nesf file.
        shard: I/N packs every N-th row, beginning with the I-th (I from 1 to N); `nesf data join`
            puts the N parts together.
        held_out: crystals that training must not see, a file or as in [a.csv,b.csv]; they are left
            out of the set whatever their id and cell, and listed with the rejected rows.
        progress: show a progress bar.
        read: reading
    """
    from nesf.data.packed import pack

    report = pack(inputs, output, read, parse_shard(shard), progress, listed(held_out))
    print(f"{report.packed} packed, {report.rejected} rejected: {report.path}")
    return _list_rejected(report.rejected, report.rejected_path)


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """`I/N` as (I, N).

    Raises:
        InputError: the text is something else.
    """
    if text is None:
        return None
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise InputError(f"the shard is {text!r}; give I/N with I from 1 to N, such as 3/16")
    return int(part), int(parts)


def join_files(inputs: Sequence[str], output: str) -> int:
    """Put packed sets together, the parts of a sharded packing or any others.

    Args:
        inputs: packed .nesf files, in the order of the result.
        output: the packed set, a .nesf file.
    """
    from nesf.data import packed

    report = packed.join_files(inputs, output)
    print(f"{report.packed} crystals of {len(inputs)} files: {report.path}")
    return 0


def box_files(
    inputs: Sequence[str],
    output: str,
    mode: Literal["unit", "repeat", "cluster"] = "repeat",
    side: float = 10.0,
    rotate: Literal["none", "quarter", "any"] = "any",
    shift: bool = True,
    capacity: int = 512,
    copies: int = 1,
    seed: int = 0,
    progress: bool = True,
    read: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
) -> int:
    """Cut boxes from crystals, each placed at random, into one packed set.

    The boxes are not periodic: their faces are walls. Models with boxes in their config train on
    such sets and are tested on them; `nesf evaluate --boxes` scores what they give back.

    Args:
        inputs: CIF or POSCAR files, folders, globs or zips of them, tables with a cif column
            (.csv, .csv.gz, .parquet), .extxyz, .json, .jsonl or packed .nesf files.
        output: the packed set, a .nesf file.
        mode: unit for one unit cell in the middle, repeat for the repeating crystal that fills the
            box, cluster for the atoms within side / 2 of the middle.
        side: edge of the box, Å.
        rotate: how the crystals are turned, not at all, by quarter turns or by any rotation.
        shift: bring any point of the cell into the middle, and not its origin (repeat, cluster).
        capacity: the most atoms in a box; crystals that need more are listed as rejected.
        copies: boxes of each crystal.
        seed: of rotations and places.
        progress: show a progress bar.
        read: reading
    """
    from nesf.boxes.cut import BoxOptions
    from nesf.data.boxes import write_boxes

    try:
        options = BoxOptions(side, mode, rotate, shift, capacity)
    except ValueError as error:
        raise InputError(str(error)) from error
    report = write_boxes(inputs, output, options, read, copies, seed, progress)
    print(f"{report.packed} boxes, {report.rejected} rejected: {report.path}")
    return _list_rejected(report.rejected, report.rejected_path)


def prototype_files(
    output: str,
    count: int = 2000,
    seed: int = 0,
    max_atoms: int = 20,
    kinds: list[str] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> int:
    """Make crystals of known prototypes, decorated with plausible elements, without a network.

    Args:
        output: the packed set, a .nesf file.
        count: crystals to make; fewer of the same seed are the first of more.
        seed: of the choice; the same seed gives the same bytes.
        max_atoms: largest number of atoms in the conventional cell.
        kinds: names of prototypes, as in [rocksalt,fcc]; all by default.
        workers: processes; by default one a core.
        progress: show a progress bar.
    """
    from nesf.data.prototypes import write_prototypes

    report = write_prototypes(output, count, seed, max_atoms, kinds, workers, progress)
    print(f"{report.packed} made: {report.path}")
    return 0


def random_files(
    output: str,
    count: int = 2000,
    seed: int = 0,
    max_atoms: int = 40,
    workers: int | None = None,
    progress: bool = True,
) -> int:
    """Make random crystals of any space group, for a model that is to know more than prototypes.

    Args:
        output: the packed set, a .nesf file.
        count: crystals to make; fewer of the same seed are the first of more.
        seed: of all that is drawn; the same seed gives the same bytes.
        max_atoms: largest number of atoms in the cell, a standardised one.
        workers: processes; by default one a core.
        progress: show a progress bar.
    """
    from nesf.data.random_crystals import write_random

    report = write_random(output, count, seed, max_atoms, workers, progress)
    print(f"{report.packed} made: {report.path}")
    return 0


def fetch_files(
    output: str,
    preset: Literal["icsg3d", "lcs6"] | None = None,
    formula: str | None = None,
    chemical_system: str | None = None,
    conventional: bool = True,
    max_atoms: int | None = None,
    include_gnome: bool = False,
    progress: bool = True,
) -> int:
    """Fetch crystals from the Materials Project into a packed set.

    The key is read from the environment variable PMG_MAPI_KEY or MP_API_KEY. A fetch that was
    broken off goes on when it is called again. The data is CC BY 4.0; a manifest beside the output
    tells query, date, versions and ids.

    Args:
        output: the packed set, a .nesf file.
        preset: icsg3d for cubic AB, ABX2 and ABX3 of at most 40 atoms; lcs6 for conventional cells
            with a, b, c of at most 6 Å.
        formula: such as Fe2O3, or ABC3 for any; several by comma.
        chemical_system: such as Fe-O.
        conventional: with a formula or system, fetch conventional cells instead of primitive ones.
        max_atoms: with a formula or system, the largest number of atoms in that cell.
        include_gnome: take rows that came from GNoME, too (non-commercial: CC BY-NC 4.0).
        progress: show a progress bar.
    """
    from nesf.data.materials_project import Query, fetch

    if preset is None:
        query = Query.matching(formula, chemical_system, conventional, max_atoms)
    elif formula or chemical_system or max_atoms or not conventional:
        raise InputError("a preset says which crystals and cells; give either it or other filters")
    else:
        query = Query.icsg3d() if preset == "icsg3d" else Query.lcs6()
    report = fetch(query, output, include_gnome=include_gnome, progress=progress)
    print(f"{report.packed} fetched, {report.rejected} rejected: {report.path}")
    return _list_rejected(report.rejected, report.rejected_path)


def evaluate_files(
    predicted: str,
    reference: str,
    json: str | None = None,
    rows: str | None = None,
    refine_symmetry: bool = False,
    bootstrap: int = 1000,
    timeout_s: float = 20.0,
    workers: int | None = None,
    boxes: bool = False,
    seed: int = 0,
) -> int:
    """Score predicted crystals against reference crystals of the same ids.

    Args:
        predicted: a file or folder of crystals, in any format that the readers know.
        reference: likewise; every crystal in it counts.
        json: where to write the whole result, a JSON file.
        rows: where to write one row a crystal, a CSV file.
        refine_symmetry: score symmetry-refined predictions beside the raw ones.
        bootstrap: resamples for the 95 % intervals.
        timeout_s: time limit for matching one pair, s.
        workers: processes for reading and matching; by default one a core.
        boxes: score boxes (`nesf data boxes`): faces are walls, distances plain, nothing matched.
        seed: of the resamples and of the chance level's random positions.
    """
    from eval import evaluate

    return evaluate.evaluate_files(
        predicted,
        reference,
        json_file=json,
        rows_file=rows,
        refine=refine_symmetry,
        bootstrap=bootstrap,
        timeout_s=timeout_s,
        workers=workers,
        boxes=boxes,
        seed=seed,
    )


def export_model(model: str, output: str, half: bool = False) -> int:
    """Write a trained model as one file to share: configuration, weights, and a sha256 beside it.

    Args:
        model: a run folder, a checkpoint (.ckpt, .safetensors) or a shipped name.
        output: the file, its suffix .safetensors.
        half: weights as float16, at half the size; they are loaded as float32.
    """
    from nesf.checkpoint import find_model, read_model, save_model
    from nesf.data.outputs import make_ready

    if not output.endswith(".safetensors"):
        raise InputError(f"the output is {output}; give a file with the suffix .safetensors")
    content = read_model(find_model(model))
    make_ready(output)
    weights = content.state_dict
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    save_model(output, content.model, weights, content.metadata)
    print(f"{sum(v.numel() for v in weights.values()):,} numbers: {output}")
    return 0


def _list_rejected(count: int, path: Path | None) -> int:
    if not count:
        return 0
    print(f"{count} rejected rows are listed in {path}", file=sys.stderr)
    return 1
