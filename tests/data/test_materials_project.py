"""Fetching from the Materials Project, against a recorded client: no network."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.ext.matproj import MPRestError

from nesf.data import materials_project
from nesf.data.materials_project import Query, fetch
from nesf.data.packed import PackedSet
from nesf.errors import InputError, NesfError

KEY = "0123456789abcdef0123456789abcdef"


def rock_salt(a: float) -> Structure:
    """The primitive cell, as the Materials Project stores it; with charges and site properties."""
    lattice = Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])
    coords = [[0, 0, 0], [0.5, 0.5, 0.5]]
    return Structure(lattice, ["Na+", "Cl-"], coords, site_properties={"magmom": [0.0, 0.1]})


class RecordedClient:
    """Answers like pymatgen's client from a few documents, and keeps what it was asked."""

    def __init__(self, documents: list[dict[str, Any]]):
        self.documents = {document["material_id"]: document for document in documents}
        self.asked: list[dict[str, Any]] = []
        self.failures: list[Exception] = []

    def summary_search(self, **criteria: Any) -> list[dict[str, Any]]:
        self.asked.append(criteria)
        if self.failures:
            raise self.failures.pop(0)
        ids = criteria.get("material_ids", self.documents)
        found = [self.documents[name] for name in ids if name in self.documents]
        return [{k: d[k] for k in criteria["_fields"] if k in d} for d in found]

    @property
    def fetched(self) -> list[list[str]]:
        return [asked["material_ids"] for asked in self.asked if "material_ids" in asked]


def document(name: str, structure: Structure, **changes: Any) -> dict[str, Any]:
    return {
        "material_id": name,
        "structure": structure,
        "formula_pretty": "NaCl",
        "band_gap": 5.0,
        "energy_above_hull": None,
        "builder_meta": {"license": "BY-C", "batch_id": "old", "database_version": "2025.09.25"},
    } | changes


GNOME = {"license": "BY-NC", "batch_id": "gnome_r2scan_statics", "database_version": "2025.09.25"}


@pytest.fixture
def client() -> RecordedClient:
    return RecordedClient(
        [
            document("mp-10", rock_salt(5.64)),
            document("mp-9", rock_salt(5.0)),
            document("mp-100", rock_salt(6.5)),
            document("mp-11", Structure(Lattice.cubic(4), ["H", "H"], [[0] * 3, [0.01, 0, 0]])),
            document("mp-12", rock_salt(5.5), builder_meta=GNOME),
            document("mp-13", rock_salt(5.4), builder_meta=SimpleNamespace(**GNOME)),
        ]
    )


def test_lcs6_like(tmp_path: Path, client: RecordedClient) -> None:
    output = tmp_path / "lcs6.nesf"
    report = fetch(Query.lcs6(), output, client=client, progress=False)
    assert client.asked[0] == {
        "_fields": ["material_id", "builder_meta"],
        "deprecated": False,
        "volume_max": 216.0,
        "batch_id_not_eq": "gnome_r2scan_statics",
    }
    packed = PackedSet.load(output)
    assert list(packed.ids) == ["mp-9", "mp-10"]  # mp-100 is too long, mp-11 impossible
    assert packed.num_atoms.tolist() == [8, 8]  # conventional
    np.testing.assert_allclose(packed.lattice[1], 5.64 * np.eye(3), atol=1e-6)
    assert packed.properties["band_gap"].tolist() == [5.0, 5.0]
    assert "energy_above_hull" not in packed.properties
    assert (report.packed, report.rejected) == (2, 1)
    assert report.rejected_path is not None
    assert "mp-11" in report.rejected_path.read_text()
    assert "Å apart" in report.rejected_path.read_text()

    manifest = json.loads((tmp_path / "lcs6.manifest.json").read_text())
    assert manifest["ids"] == ["mp-9", "mp-10"]
    assert manifest["licence"] == "CC BY 4.0"
    assert manifest["query"]["max_length"] == 6.0
    assert manifest["query"]["include_gnome"] is False
    assert manifest["versions"]["database"] == ["2025.09.25"]
    assert manifest["outside_limits"] == 1
    assert manifest["rejected"][0]["id"] == "mp-11"
    assert manifest["date"].startswith("20")


def test_gnome_comes_only_when_asked_for(tmp_path: Path, client: RecordedClient) -> None:
    fetch(Query.lcs6(), tmp_path / "all.nesf", include_gnome=True, client=client, progress=False)
    assert "batch_id_not_eq" not in client.asked[0]
    assert {"mp-12", "mp-13"} <= set(PackedSet.load(tmp_path / "all.nesf").ids)
    manifest = json.loads((tmp_path / "all.manifest.json").read_text())
    assert manifest["licence"] == "CC BY 4.0; CC BY-NC 4.0 for `gnome_ids`"
    assert manifest["gnome_ids"] == ["mp-12", "mp-13"]


@pytest.mark.parametrize(
    ("query", "criteria"),
    [
        (Query.icsg3d(), {"crystal_system": "Cubic", "formula": "AB,ABC2,ABC3"}),
        (Query.matching(formula="NaCl"), {"formula": "NaCl"}),
        (Query.matching(chemical_system="Na-Cl"), {"chemsys": "Na-Cl"}),
    ],
)
def test_other_queries(
    tmp_path: Path, client: RecordedClient, query: Query, criteria: dict[str, str]
) -> None:
    fetch(query, tmp_path / "set.nesf", client=client, progress=False)
    assert criteria.items() <= client.asked[0].items()
    assert list(PackedSet.load(tmp_path / "set.nesf").ids) == ["mp-9", "mp-10", "mp-100"]


def test_primitive_cells_and_limits(tmp_path: Path, client: RecordedClient) -> None:
    query = Query.matching(formula="NaCl", conventional=False)
    fetch(query, tmp_path / "set.nesf", client=client, progress=False)
    assert PackedSet.load(tmp_path / "set.nesf").num_atoms.tolist() == [2, 2, 2]
    with pytest.raises(InputError, match=r"none of 4 materials fits: 3 are outside .* 1 were rej"):
        fetch(
            Query.matching(formula="NaCl", max_atoms=7),
            tmp_path / "none.nesf",
            client=client,
            progress=False,
        )
    with pytest.raises(InputError, match="one of the two"):
        Query.matching()


def test_broken_off_fetch_goes_on(
    tmp_path: Path, client: RecordedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(materials_project, "ROWS_A_SHARD", 2)
    output = tmp_path / "set.nesf"

    def go(pause_s: float = 0.0) -> None:
        fetch(Query.lcs6(), output, client=client, progress=False, pause_s=pause_s)

    answer = client.summary_search

    def lose_the_network(**criteria: Any) -> list[dict[str, Any]]:
        if "mp-11" in criteria.get("material_ids", []):
            raise MPRestError("no route to host")
        return answer(**criteria)

    monkeypatch.setattr(client, "summary_search", lose_the_network)
    with pytest.raises(NesfError, match=r"4 tries \(no route to host\); 1 of 2 parts are there"):
        go()
    assert not output.exists()
    monkeypatch.setattr(client, "summary_search", answer)
    client.asked.clear()
    go()
    assert client.fetched == [["mp-11", "mp-100"]]  # neither the list nor the first part again
    whole = output.read_bytes()
    client.asked.clear()
    go()
    assert client.asked == []
    assert output.read_bytes() == whole
    # a damaged part is fetched again
    part = tmp_path / "set.parts" / "shard-00000.nesf"
    part.write_bytes(part.read_bytes()[:-7])
    go()
    assert client.fetched == [["mp-9", "mp-10"]]
    assert output.read_bytes() == whole
    with pytest.raises(InputError, match="holds parts of another query"):
        fetch(Query.icsg3d(), output, client=client, progress=False)


def test_a_short_failure_is_tried_again(tmp_path: Path, client: RecordedClient) -> None:
    client.failures = [MPRestError("status code 502"), ConnectionError("reset")]
    fetch(Query.lcs6(), tmp_path / "set.nesf", client=client, progress=False, pause_s=0.0)
    assert len(client.asked) == 4


def test_vanished_rows_are_listed(tmp_path: Path, client: RecordedClient) -> None:
    answer = client.summary_search

    def forget(**criteria: Any) -> list[dict[str, Any]]:
        return [d for d in answer(**criteria) if "structure" not in d or d["material_id"] != "mp-9"]

    client.summary_search = forget  # type: ignore[method-assign]
    report = fetch(Query.lcs6(), tmp_path / "set.nesf", client=client, progress=False)
    assert (report.packed, report.rejected) == (1, 2)
    assert "mp-9" in (tmp_path / "set.rejected.csv").read_text()


def test_nothing_matches(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no material of the Materials Project matches"):
        fetch(Query.lcs6(), tmp_path / "set.nesf", client=RecordedClient([]), progress=False)
    assert os.listdir(tmp_path) == []


# --- the key


@pytest.fixture
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMG_MAPI_KEY", "MP_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_key")
def test_without_a_key_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no key .* PMG_MAPI_KEY or MP_API_KEY") as caught:
        fetch(Query.lcs6(), tmp_path / "set.nesf")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("MP_API_KEY", "short")
    with pytest.raises(InputError, match=r"is not one of the Materials Project") as caught:
        fetch(Query.lcs6(), tmp_path / "set.nesf")
    assert "short" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("_no_key")
@pytest.mark.parametrize("name", ["PMG_MAPI_KEY", "MP_API_KEY"])
def test_the_key_reaches_the_client_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    client: RecordedClient,
    name: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = []

    def make(key: str) -> RecordedClient:
        given.append(key)
        return client

    monkeypatch.setattr("pymatgen.ext.matproj.MPRester", make)
    monkeypatch.setenv(name, KEY)
    caplog.set_level("DEBUG")
    fetch(Query.lcs6(), tmp_path / "set.nesf", pause_s=0.0)
    assert given == [KEY]
    client.failures = [MPRestError(f"bad header x-api-key: {KEY}")] * 4
    with pytest.raises(NesfError, match=r"x-api-key: \*\*\*") as caught:
        fetch(Query.lcs6(), tmp_path / "other.nesf", pause_s=0.0)
    error: BaseException | None = caught.value
    while error is not None:
        assert KEY not in str(error)
        error = error.__cause__ or error.__context__
    client.failures = [MPRestError("REST query returned with error status code 403")]
    with pytest.raises(InputError, match="refused the key in PMG_MAPI_KEY or MP_API_KEY"):
        fetch(Query.lcs6(), tmp_path / "third.nesf", pause_s=0.0)
    assert KEY not in caplog.text
    assert KEY not in "".join(capfd.readouterr())
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()
