"""Several processes do what one does: nothing doubled, nothing lost, nobody waits for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rank_runs import DONE, KILL, TERM, content, exact, srun, torchrun
from stand_in_model import StandIn

from nesf.checkpoint import save_model
from nesf.latents import Latents
from nesf.ranks.environment import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


# -- the same output


@pytest.mark.parametrize(("size", "launcher"), [(2, torchrun), (3, srun)])
def test_ranks_write_what_one_process_writes(ranks, table, tmp_path, alone, size, launcher):
    output = tmp_path / "many" / "out.csv"
    first, *others = ranks(size, *exact(table, output), launcher=launcher)
    assert {first.code, *(other.code for other in others)} == {1}, first.err
    assert content(output) == alone
    assert [path.name for path in output.parent.glob("*")].count("out.csv.shards") == 0
    assert first.out == f"{DONE} reconstructed, 1 rejected: {output}\n"
    assert first.err.count("rejected: ") == 1
    assert all(other.out == other.err == "" for other in others)  # one of them speaks


def encode(table: Path, folder: Path, output: Path, *more: object) -> list[object]:
    """The words that encode a table with a model in the folder."""
    model = folder / "model.safetensors"
    config = {"class_path": "stand_in_model.StandIn", "init_args": {}}
    save_model(model, config, StandIn().state_dict())
    return ["encode", table, "--model", model, "--output", output, "--batch-size=1",
            "--progress=false", *more]  # fmt: skip


def same_latents(first: Path, second: Path) -> None:
    one, other = Latents.load(first), Latents.load(second)
    assert one.ids == other.ids == ("c0", "c1", "c3", "c1-2", "c5", "c6")
    np.testing.assert_array_equal(one.values, other.values)


def test_ranks_encode_what_one_process_encodes(ranks, table, tmp_path):
    one, two = tmp_path / "1.npz", tmp_path / "2.npz"
    for size, output in ((1, one), (2, two)):
        ended = ranks(size, *encode(table, tmp_path, output))
        assert {rank.code for rank in ended} == {1}, ended[0].err
    same_latents(one, two)
    # a killed rank ends the job, and another goes on from what was done
    again = tmp_path / "again" / "z.npz"
    command = encode(table, tmp_path, again)
    first, second = ranks(2, *command, patience_s=1.5, strikes={1: (KILL, 1)})
    assert (first.code, second.code) == (2, -KILL)
    assert first.err.endswith("go on with --resume\n")
    assert not again.exists()
    ended = ranks(3, *command, "--resume")
    assert {rank.code for rank in ended} == {1}, ended[0].err
    assert "2 encoded (4 were there already), 1 rejected" in ended[0].out
    same_latents(one, again)
    left = {path.name for path in again.parent.iterdir()}
    assert left == {"z.npz", "z.npz.made_by.json", "z.rejected.csv"}


def test_ranks_evaluate_as_one_process(ranks, table, tmp_path):
    predicted, reference = tmp_path / "predicted.csv", tmp_path / "reference.csv"
    names = iter(["c1", "c1b"])
    lines = [
        line.replace("c1", next(names), 1) if line.startswith("c1,") else line
        for line in table.read_text().splitlines(keepends=True)
    ]
    reference.write_text("".join(lines))
    predicted.write_text("".join(lines).replace("c6,", "stranger,").replace("0.53", "0.58"))
    for size in (1, 3):
        ended = ranks(size, "evaluate", "--predicted", predicted, "--reference", reference,
                      "--json", tmp_path / f"{size}.json", "--rows", tmp_path / f"{size}.csv",
                      "--refine-symmetry", "--bootstrap=50")  # fmt: skip
        assert {one.code for one in ended} == {1}, ended[0].err
        assert all(one.out == one.err == "" for one in ended[1:])
        assert not list(tmp_path.glob("*.shards"))
    results = [json.loads((tmp_path / f"{size}.json").read_text()) for size in (1, 3)]
    assert results[0] == results[1]
    assert results[0]["counts"]["reference"] == DONE
    assert 0 < results[0]["metrics"]["match_rate"]["value"] < 100
    tables = {(tmp_path / f"{size}.csv").read_bytes() for size in (1, 3)}
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
    written = b"".join(before.values()).count(b"\n") - len(before)  # but for their first lines
    assert written == 3 + 1  # of rank 0's four rows one is bad
    ended = ranks(3, *command, "--resume")  # another number of ranks
    assert {one.code for one in ended} == {1}, ended[0].err
    assert ended[0].out.startswith(
        f"{DONE - written} reconstructed ({written} were there already), 1 rejected"
    )
    assert content(output) == alone
    assert not Path(f"{output}.shards").exists()


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
