"""Several processes do what one does: nothing doubled, nothing lost, nobody waits for ever."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from rank_runs import KILL, PRELOAD, TERM, Ranks, srun, torchrun
from stand_in_model import StandIn

from nesf.checkpoint import save_model
from nesf.data.records import Rejected
from nesf.errors import InputError
from nesf.latents import Latents
from nesf.ranks import PATIENCE, Patience, ranks_here
from nesf.ranks import Ranks as RanksHere
from nesf.shards import Entry, Shards

ROOT = Path(__file__).resolve().parents[1]
ROWS, BAD, TWICE = 7, 2, (1, 4)  # rows: all, the one that is no crystal, those of one id
DONE = ROWS - 1


@pytest.fixture(scope="module")
def context() -> Any:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOAD)
    return found


@pytest.fixture
def ranks(context: Any, tmp_path: Path) -> Ranks:
    (tmp_path / "logs").mkdir()
    return Ranks(context, tmp_path / "logs")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Seven rows, one of them bad, two of them of one id."""
    path = tmp_path / "in.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif"])
        for i in range(ROWS):
            lattice = Lattice.from_parameters(4 + 0.1 * i, 4.1, 4.2, 90, 90 - i, 90)
            structure = Structure(lattice, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5 + 0.01 * i]])
            name = f"c{TWICE[0] if i in TWICE else i}"
            writer.writerow([name, "data_nothing" if i == BAD else structure.to(fmt="cif")])
    return path


def exact(table: Path, output: Path, *more: object) -> list[object]:
    # one crystal at a time: sums over other batches differ in their last digits
    return ["reconstruct", table, "--field=exact", "--output", output, "--batch-size=1",
            "--progress=false", *more]  # fmt: skip


def content(output: Path) -> dict[str, bytes]:
    """All that a command has written, the list of rejected rows included."""
    if output.is_file():
        return {name: output.with_name(name).read_bytes() for name in (output.name, "rejected.csv")}
    return {path.name: path.read_bytes() for path in output.iterdir()}


@pytest.fixture
def alone(ranks: Ranks, table: Path, tmp_path: Path) -> dict[str, bytes]:
    """What one process writes."""
    (ended,) = ranks(1, *exact(table, tmp_path / "alone" / "out.csv"))
    assert ended.code == 1, ended.err  # a row is bad
    return content(tmp_path / "alone" / "out.csv")


# -- which rank this is


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, RanksHere()),
        (torchrun(3, 8) | {"LOCAL_WORLD_SIZE": "4"}, RanksHere(3, 8, 3, 4)),
        (srun(1, 2), RanksHere(1, 2, 1)),
        (torchrun(0, 2) | srun(5, 9), RanksHere(0, 2, 0)),  # torchrun within srun
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, RanksHere()),  # sbatch
        ({"LOCAL_RANK": "1"}, RanksHere()),
    ],
)
def test_the_environment_says_which_rank_this_is(environment, expected):
    assert ranks_here(environment) == expected


@pytest.mark.parametrize("environment", [torchrun(2, 2), torchrun(0, 2) | {"RANK": "first"}])
def test_an_environment_that_makes_no_sense_is_refused(environment):
    with pytest.raises(InputError, match="environment"):
        ranks_here(environment)


def test_shares_of_cores_and_devices(monkeypatch):
    assert RanksHere(0, 8, 0, 10**6).workers(None) == 1
    assert RanksHere(0, 8, 0, 4).workers(3) == 3
    assert RanksHere().workers(None) is None
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [RanksHere(r, 4, r).device("auto") for r in range(4)] == ["cuda:0", "cuda:1"] * 2
    assert RanksHere(1, 4, 1).device("cpu") == "cpu"
    assert RanksHere().device("auto") == "auto"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert RanksHere(1, 4, 1).device("auto") == "cpu"


def test_patience_is_a_positive_number(monkeypatch):
    monkeypatch.setenv(PATIENCE, "2.5")
    assert (Patience.from_environment().silent_s, Patience.from_environment().absent_s) == (2.5, 25)
    for text in ("0", "-1", "soon", "nan"):
        monkeypatch.setenv(PATIENCE, text)
        with pytest.raises(InputError, match=PATIENCE):
            Patience.from_environment()


# -- the same output


@pytest.mark.parametrize(("size", "launcher"), [(2, torchrun), (3, srun), (9, torchrun)])
def test_ranks_write_what_one_process_writes(ranks, table, tmp_path, alone, size, launcher):
    output = tmp_path / "many" / "out.csv"
    first, *others = ranks(size, *exact(table, output), launcher=launcher)
    assert {first.code, *(other.code for other in others)} == {1}, first.err
    assert content(output) == alone
    assert [path.name for path in output.parent.glob("*")].count("out.csv.shards") == 0
    assert first.out == f"{DONE} reconstructed, 1 rejected: {output}\n"
    assert first.err.count("rejected: ") == 1
    assert all(other.out == other.err == "" for other in others)  # one of them speaks


def test_ranks_write_a_folder(ranks, table, tmp_path):
    for size, name in ((1, "alone"), (2, "many")):
        assert {ended.code for ended in ranks(size, *exact(table, tmp_path / name))} == {1}
    assert content(tmp_path / "many") == content(tmp_path / "alone")
    assert len(list((tmp_path / "many").glob("*.cif"))) == DONE
    assert not (tmp_path / "many.shards").exists()


def test_ranks_encode_what_one_process_encodes(ranks, table, tmp_path):
    model = tmp_path / "model.safetensors"
    config = {"class_path": "stand_in_model.StandIn", "init_args": {}}
    save_model(model, config, StandIn().state_dict())
    found = []
    for size in (1, 2):
        output = tmp_path / f"{size}.npz"
        command = ["encode", table, "--model", model, "--output", output, "--progress=false"]
        ended = ranks(size, *command)
        assert {one.code for one in ended} == {1}, ended[0].err
        found.append(Latents.load(output))
    assert found[0].ids == found[1].ids == ("c0", "c1", "c3", "c1-2", "c5", "c6")
    np.testing.assert_array_equal(found[0].values, found[1].values)


def test_ranks_evaluate_as_one_process(ranks, table, tmp_path):
    predicted, reference = tmp_path / "predicted.csv", tmp_path / "reference.csv"
    rows = table.read_text().replace("c1", "c1", 1)
    reference.write_text(rows)
    names = iter(["c1", "c1b"])
    lines = [
        line.replace("c1", next(names), 1) if line.startswith("c1,") else line
        for line in rows.splitlines(keepends=True)
    ]
    reference.write_text("".join(lines))
    predicted.write_text("".join(lines).replace("c6,", "stranger,").replace("0.53", "0.58"))
    for size in (1, 2, 3):
        ended = ranks(size, "evaluate", "--predicted", predicted, "--reference", reference,
                      "--json", tmp_path / f"{size}.json", "--rows", tmp_path / f"{size}.csv",
                      "--refine-symmetry", "--bootstrap=50")  # fmt: skip
        assert {one.code for one in ended} == {1}, ended[0].err
        assert all(one.out == one.err == "" for one in ended[1:])
        assert not list(tmp_path.glob("*.shards"))
    results = [json.loads((tmp_path / f"{size}.json").read_text()) for size in (1, 2, 3)]
    assert results[0] == results[1] == results[2]
    assert results[0]["counts"]["reference"] == DONE
    assert 0 < results[0]["metrics"]["match_rate"]["value"] < 100
    tables = {(tmp_path / f"{size}.csv").read_bytes() for size in (1, 2, 3)}
    assert len(tables) == 1


def test_an_evaluation_without_a_file_has_no_place_to_meet(ranks, table):
    first, second = ranks(2, "evaluate", "--predicted", table, "--reference", table)
    assert (first.code, second.code, second.err) == (2, 2, "")
    assert "give --json FILE" in first.err


# -- what goes wrong


def test_a_killed_rank_ends_the_job_which_then_goes_on(ranks, table, tmp_path, alone):
    output = tmp_path / "many" / "out.csv"
    command = exact(table, output)
    first, second = ranks(2, *command, patience_s=1.5, strikes={1: (KILL, 1)})
    assert (first.code, second.code) == (2, -KILL)
    assert first.seconds - second.seconds < 30
    assert first.err.startswith("nesf: rank 1 of 2 has not been heard of for 1.5 s: it was killed")
    assert first.err.endswith("go on with --resume\n")
    assert first.err.count("\n") == 1
    assert not output.exists()  # whole or not at all
    before = {path: path.read_bytes() for path in Path(f"{output}.shards").glob("shard-*")}
    written = b"".join(before.values()).count(b"\n")
    assert written == 3 + 1  # of rank 0's four rows one is bad
    ended = ranks(3, *command, "--resume")  # another number of ranks
    assert {one.code for one in ended} == {1}, ended[0].err
    assert ended[0].out.startswith(
        f"{DONE - written} reconstructed ({written} were there already), 1 rejected"
    )
    assert content(output) == alone
    assert not Path(f"{output}.shards").exists()
    again = ranks(2, *command, "--resume")  # nothing is left to do
    assert {one.code for one in again} == {1}
    assert f"0 reconstructed ({DONE} were there already)" in again[0].out
    assert content(output) == alone


def test_a_killed_leader_ends_the_job(ranks, table, tmp_path, alone):
    output = tmp_path / "many" / "out.csv"
    first, *others = ranks(3, *exact(table, output), patience_s=1.5, strikes={0: (KILL, 1)})
    assert [one.code for one in (first, *others)] == [-KILL, 2, 2]
    assert "nesf: rank 0 of 3 has not been heard of" in others[0].err
    assert others[1].err == ""
    assert max(one.seconds for one in others) - first.seconds < 30
    # a torn line, as of a machine that went down
    (shard,) = Path(f"{output}.shards").glob("shard-00000-*")
    with shard.open("a") as file:
        file.write('4\t"c1"\t{"lattice": [[4.')
    assert {one.code for one in ranks(2, *exact(table, output, "--resume"))} == {1}
    assert content(output) == alone


def test_a_rank_that_is_asked_to_end(ranks, table, tmp_path):
    output = tmp_path / "out.csv"
    first, second = ranks(2, *exact(table, output), strikes={1: (TERM, 0)})
    assert (first.code, second.code) == (2, 128 + TERM)
    assert first.err == ("nesf: rank 1 of 2 failed: stopped by SIGTERM; go on with --resume\n")


def test_a_rank_that_fails_is_told_by_the_first(ranks, table, tmp_path):
    output = tmp_path / "out.csv"
    other = exact(tmp_path / "nothing.csv", output)
    first, second = ranks(2, *exact(table, output), others={1: other})
    assert (first.code, second.code, second.err) == (2, 2, "")
    assert first.err.startswith("nesf: rank 1 of 2 failed: ")
    assert "nothing.csv" in first.err


def test_what_cannot_work_leaves_no_trace(ranks, table, tmp_path):
    command = ["reconstruct", table, "--model", tmp_path / "none", "--output", tmp_path / "out.csv"]
    first, second = ranks(2, *command)
    assert (first.code, second.code, second.err) == (2, 2, "")
    assert "none" in first.err
    assert not list(tmp_path.glob("out*"))


def test_a_rank_that_never_comes(ranks, table, tmp_path):
    for absent, told in ((1, "rank 1 of 2 has not begun"), (0, "rank 0 of 2 has not begun")):
        (ended,) = ranks(2, *exact(table, tmp_path / f"{absent}.csv"), patience_s=0.3,
                         absent=[absent])  # fmt: skip
        assert ended.code == 2
        assert told in ended.err


def test_ranks_that_read_different_inputs(ranks, table, tmp_path):
    longer = tmp_path / "longer.csv"
    longer.write_text(table.read_text() + '"c8","data_nothing"\n"c9","data_nothing"\n')
    output = tmp_path / "out.csv"
    first, second = ranks(2, *exact(table, output), others={1: exact(longer, output)})
    assert (first.code, second.code) == (2, 2)
    assert "the ranks have not read the same inputs" in first.err
    assert not output.exists()


def test_shards_of_other_inputs_are_refused(ranks, table, tmp_path):
    output = tmp_path / "out.csv"
    ranks(2, *exact(table, output), patience_s=1.5, strikes={1: (KILL, 2)})
    table.write_text(table.read_text().replace("c0,", "other,"))
    first, _ = ranks(2, *exact(table, output, "--resume"))
    assert first.code == 2
    assert "holds shards of other inputs, whose row 1 was c0 and not other" in first.err


# -- the join


def reports(total: int, size: int, rejected: set[int]) -> list[dict[str, Any]]:
    return [
        {
            "inputs": "digest",
            "rows": len(range(rank, total, size)),
            "rejected": [
                [n, n % 2 == 0, vars(Rejected("in.csv", n + 1, f"c{n % 5}", "bad"))]
                for n in sorted(rejected)
                if n % size == rank
            ],
        }
        for rank in range(size)
    ]


@given(st.integers(0, 40), st.integers(1, 6), st.data())
def test_every_row_is_there_once(total, size, data):
    numbers = list(range(total))
    rejected = set(data.draw(st.lists(st.sampled_from(numbers)))) if numbers else set()
    kept = [n for n in numbers if n not in rejected]
    owner = [data.draw(st.integers(0, 7)) for _ in kept]  # shards of runs with other sizes
    streams = [
        [Entry(n, f"c{n % 5}", str(n)) for n, shard in zip(kept, owner, strict=True) if shard == k]
        for k in range(8)
    ]
    shards, told = Shards("out.csv"), reports(total, size, rejected)
    joined = list(shards.join([iter(stream) for stream in streams], told))
    assert [entry.number for entry in joined] == numbers
    named = [entry.name for entry in joined if entry.was_read]
    assert len(set(named)) == len(named)
    # the same names as counting them one after another gives
    seen: dict[int, int] = {}
    for entry in joined:
        if entry.was_read:
            count = seen[entry.number % 5] = seen.get(entry.number % 5, 0) + 1
            assert entry.name == f"c{entry.number % 5}" + (f"-{count}" if count > 1 else "")
    if kept:
        lost = data.draw(st.sampled_from(kept))
        broken = [[entry for entry in stream if entry.number != lost] for stream in streams]
        with pytest.raises(InputError, match=f"row {lost + 1} is lost"):
            list(shards.join([iter(stream) for stream in broken], told))
        longer = [told[0] | {"rows": told[0]["rows"] + 2}, *told[1:]]
        with pytest.raises(InputError, match=r"not read the same|is lost"):
            list(shards.join([iter(stream) for stream in streams], longer))
        doubled = [*streams, [Entry(lost, "x", "x")]]
        with pytest.raises(InputError, match=f"row {lost + 1} is there twice"):
            list(shards.join([iter(stream) for stream in doubled], told))


# -- as a user starts it


def test_torchrun(table, tmp_path, alone):
    output = tmp_path / "many" / "out.csv"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "nesf",
         *map(str, exact(table, output))],
        env=os.environ | {"PYTHONPATH": str(ROOT), PATIENCE: "20"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # a row is bad
    assert f"{DONE} reconstructed, 1 rejected: {output}" in done.stdout
    assert not Path(f"{output}.shards").exists()
    assert content(output) == alone
