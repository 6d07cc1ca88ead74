"""The folder of a comparison: who may write into it, on which terms, and how it is cleared."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.compare.options import Contestant
from eval.compare.plan import Comparison, Plan, Restart
from nesf.atomic import atomic_write
from nesf.checkpoint import find_model
from nesf.data.files import find_files
from nesf.errors import InputError

try:
    import fcntl
except ImportError:  # not a Unix: nobody is kept out
    fcntl = None  # type: ignore[assignment]

PLAN, RESULTS, GROWTH = "plan.json", "results.jsonl", "growth.jsonl"
TABLE_MD, TABLE_TEX, PAGE, PLOTS = "table.md", "table.tex", "compare.html", "plots"
_OURS = (PLAN, RESULTS, GROWTH, TABLE_MD, TABLE_TEX, PAGE, PLOTS, "models")


@contextmanager
def only_one_comparison(folder: Path) -> Iterator[list[int]]:
    """Hold the folder's lock, which children inherit: one comparison, no left-over trainings.

    Yields:
        File descriptors for the children to inherit.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("ab")
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({(error.strerror or '').lower()})"
        ) from error
    with file:
        if fcntl is None:
            yield []
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another comparison, or a training that one left, is at work in {folder}; wait "
                "for it, or give another --output"
            ) from error
        yield [file.fileno()]


def terms_of(plan: Plan, device: str) -> dict[str, Any]:
    """What results depend on, as plain JSON: of the one comparison, or of each part.

    Args:
        plan: what is compared.
        device: the kind of device, cpu or cuda.

    Raises:
        InputError: a file that the plan names does not exist.
    """
    if not plan.several:
        return part_terms(plan.parts[0], device)
    return {"parts": {part.name: part_terms(part, device) for part in plan.parts}}


def part_terms(plan: Comparison, device: str) -> dict[str, Any]:
    """Shared terms, contents of the data, and the models of one comparison.

    Args:
        plan: the comparison.
        device: the kind of device, cpu or cuda.

    Raises:
        InputError: a file that the plan names does not exist.
    """
    terms = {
        **plan.shared_terms(),
        "device": device,
        "data": {
            name: [
                {"path": str(one.path), "sha256": _sha256(one.path)} for one in find_files(paths)
            ]
            for name, paths in asdict(plan.data).items()
        },
        "models": {model.name: _model_terms(model) for model in plan.contestants},
    }
    return json.loads(json.dumps(terms))


def _model_terms(model: Contestant) -> dict[str, Any]:
    if model.simple is not None:
        return {"simple": model.simple}
    latent = {"latent": True} if model.latent else {}
    if model.weights is not None:
        return {"weights": model.weights, "sha256": _sha256(find_model(model.weights)), **latent}
    path = Path(str(model.config))
    if not path.is_file():
        raise InputError(f"the model {model.name}: there is no configuration {path}")
    terms = {"config": str(path), "sha256": _sha256(path), "overrides": list(model.overrides)}
    return terms | latent


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare(folder: Path, terms: dict[str, Any], restart: Restart) -> None:
    """Refuse, clear or check what the folder holds, and note the terms.

    Raises:
        InputError: it holds a comparison, and nothing was said of it, or it was made on other
            terms.
    """
    path = folder / PLAN
    if restart == "fresh" and path.is_file():
        _remove(folder)
    if path.is_file():
        if restart == "no":
            raise InputError(
                f"{folder} holds a comparison already: go on with --restart auto, remove it with "
                "--restart fresh, or give another --output"
            )
        before = json.loads(path.read_text())
        differing = _differing(before, terms)
        if differing:
            raise InputError(
                f"the comparison in {folder} was made on other terms ({', '.join(differing[:4])}); "
                "begin anew with --restart fresh, or give another --output"
            )
        terms = _joined(before, terms)
    elif any((folder / name).exists() for name in _OURS):
        raise InputError(f"{folder} holds other files; give another --output")
    with atomic_write(path) as file:
        file.write(json.dumps(terms, indent=1).encode())


def _remove(folder: Path) -> None:
    """Remove what a comparison wrote, its parts too, and nothing else; the plan last."""
    terms = json.loads((folder / PLAN).read_text())
    for part in terms.get("parts", ()):
        _remove_files(folder / part)
        if (folder / part).is_dir() and not any((folder / part).iterdir()):
            (folder / part).rmdir()
    _remove_files(folder)


def _remove_files(folder: Path) -> None:
    for name in reversed(_OURS):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of the terms that results in one table must share, and do not; models may be added."""
    if "parts" in before and "parts" in now:
        known = {name: part for name, part in now["parts"].items() if name in before["parts"]}
        return [
            f"{name} of the part {part}"
            for part, terms in known.items()
            for name in _differing(before["parts"][part], terms)
        ]
    if "parts" in before or "parts" in now:
        return ["parts"]
    old, new = (dict(_flat({k: v for k, v in t.items() if k != "models"})) for t in (before, now))
    differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    for name, entry in now["models"].items():
        known = before["models"].get(name, entry)
        changed = sorted(k for k in known.keys() | entry.keys() if known.get(k) != entry.get(k))
        differing += [f"{key} of the model {name}" for key in changed]
    return differing


def _joined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The terms of now, with parts and models of before that are no longer named."""
    if "parts" in now:
        old = before["parts"]
        parts = {
            name: _joined(old[name], terms) if name in old else terms
            for name, terms in now["parts"].items()
        }
        return {**now, "parts": old | parts}
    return {**now, "models": before["models"] | now["models"]}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(part, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, value
