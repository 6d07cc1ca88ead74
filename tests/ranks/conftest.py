"""A table that ranks share, what one process makes of it, and ranks as processes and threads."""

from __future__ import annotations

import csv
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure
from rank_runs import BAD, PRELOAD, ROWS, TWICE, Ranks, Threads, content, exact


@pytest.fixture(scope="session")
def context() -> Any:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOAD)
    return found


@pytest.fixture
def ranks(context: Any, tmp_path: Path) -> Ranks:
    (tmp_path / "logs").mkdir()
    return Ranks(context, tmp_path / "logs")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    return Threads(monkeypatch)


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven rows, one of them bad, two of them of one id; only to be read."""
    path = tmp_path_factory.mktemp("ranks") / "in.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif"])
        for i in range(ROWS):
            lattice = Lattice.from_parameters(4 + 0.1 * i, 4.1, 4.2, 90, 90 - i, 90)
            structure = Structure(lattice, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5 + 0.01 * i]])
            name = f"c{TWICE[0] if i in TWICE else i}"
            writer.writerow([name, "data_nothing" if i == BAD else structure.to(fmt="cif")])
    return path


@pytest.fixture(scope="session")
def alone(context: Any, table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    folder = tmp_path_factory.mktemp("alone")
    (ended,) = Ranks(context, folder)(1, *exact(table, folder / "output" / "out.csv"))
    assert ended.code == 1, ended.err  # a row is bad
    return content(folder / "output" / "out.csv")
