"""Ranks share rows, whatever their number; here they are threads of one process."""

from __future__ import annotations

import json
import threading
from itertools import count
from pathlib import Path

import pytest
from rank_runs import DONE, ROWS, Threads, content
from stand_in_model import StandIn

from nesf import model_config
from nesf.checkpoint import save_model
from nesf.commands.models import encode_files, reconstruct_files
from nesf.data.latent_file import to_text
from nesf.data.output_lock import OutputLock
from nesf.errors import InputError, NesfError
from nesf.latents import Latents
from nesf.ranks.environment import PATIENCE, LostLeader


def reconstruct(
    table: Path,
    output: Path,
    resume: bool = False,
    overwrite: bool = False,
    periodic: bool = True,
) -> int:
    return reconstruct_files(
        [str(table)],
        str(output),
        field="exact",
        periodic=periodic,
        resume=resume,
        overwrite=overwrite,
        batch_size=1,
        device="cpu",
        progress=False,
    )


def test_more_ranks_than_rows(threads: Threads, table, tmp_path, alone, capsys):
    output = tmp_path / "many" / "out.csv"
    assert threads(ROWS + 2, lambda rank: reconstruct(table, output)) == [1] * (ROWS + 2)
    assert content(output) == alone
    assert capsys.readouterr().out == f"{DONE} reconstructed, 1 rejected: {output}\n"
    # nothing is left to do
    assert threads(2, lambda rank: reconstruct(table, output, resume=True)) == [1, 1]
    assert f"0 reconstructed ({DONE} were there already)" in capsys.readouterr().out
    assert content(output) == alone


def test_a_folder(threads: Threads, table, tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    assert threads(1, lambda rank: reconstruct(table, one)) == [1]
    assert threads(2, lambda rank: reconstruct(table, many)) == [1, 1]
    assert content(many) == content(one)
    assert len(list(many.glob("*.cif"))) == DONE
    assert not (tmp_path / "many.shards").exists()
    before = content(many)
    first, second = threads(2, lambda rank: reconstruct(table, many))
    assert isinstance(first, InputError)
    assert "crystals of an earlier run" in str(first)
    assert isinstance(second, NesfError)
    assert content(many) == before
    assert threads(2, lambda rank: reconstruct(table, many, overwrite=True)) == [1, 1]
    assert content(many) == before


def test_an_interrupted_folder_is_kept(threads: Threads, table, tmp_path):
    many = tmp_path / "many"
    shard = tmp_path / "many.shards" / "shard-00000-0.jsonl"
    shard.parent.mkdir()
    shard.write_text("what was done")
    first, second = threads(2, lambda rank: reconstruct(table, many))
    assert isinstance(first, InputError)
    assert "holds what an interrupted run has done: go on with --resume" in str(first)
    assert isinstance(second, NesfError)
    assert shard.read_text() == "what was done"
    assert threads(2, lambda rank: reconstruct(table, many, overwrite=True)) == [1, 1]
    assert len(list(many.glob("*.cif"))) == DONE


def test_other_inputs(threads: Threads, table, tmp_path):
    """Among the ranks, and between a run and the one that goes on with it."""
    output, longer, changed = (tmp_path / name for name in ("out.csv", "longer.csv", "in.csv"))
    longer.write_text(table.read_text() + '"c8","data_nothing"\n"c9","data_nothing"\n')
    changed.write_text(table.read_text().replace("c0,", "other,"))
    first, second = threads(2, lambda rank: reconstruct((table, longer)[rank], output))
    assert isinstance(first, InputError)
    assert "the ranks have not read the same inputs" in str(first)
    assert isinstance(second, NesfError)
    assert not output.exists()
    first, second = threads(2, lambda rank: reconstruct(changed, output, resume=True))
    assert isinstance(first, InputError)
    assert "holds shards of other inputs, whose row 1 was c0 and not other" in str(first)
    assert isinstance(second, NesfError)


def test_shards_of_something_else_are_not_gone_on_with(threads: Threads, table, tmp_path, alone):
    """By no rank, and not where one process begins on what they have finished."""
    output, longer = tmp_path / "many" / "out.csv", tmp_path / "longer.csv"
    longer.write_text(table.read_text() + '"c8","data_nothing"\n"c9","data_nothing"\n')
    threads(2, lambda rank: reconstruct((table, longer)[rank], output))  # done, and not joined
    shards = output.with_name("out.csv.shards")
    before = {path.name: path.read_bytes() for path in shards.glob("shard-*")}
    assert len(before) == 2
    for found in threads(3, lambda rank: reconstruct(table, output, resume=True, periodic=False)):
        assert isinstance(found, NesfError)
        assert "was made with --periodic true, and not with --periodic false" in str(found)
    assert {path.name: path.read_bytes() for path in shards.glob("shard-*")} == before
    assert threads(2, lambda rank: reconstruct(table, output, resume=True)) == [1, 1]
    assert content(output) == alone
    with pytest.raises(InputError, match="is there already"):
        raise threads(2, lambda rank: reconstruct(table, output))[0]
    with pytest.raises(InputError, match="not with --periodic false"):
        raise threads(1, lambda _: reconstruct(table, output, resume=True, periodic=False))[0]
    assert content(output) == alone


def test_one_process_goes_on_from_shards(threads: Threads, table, tmp_path, alone):
    output, longer = tmp_path / "many" / "out.csv", tmp_path / "longer.csv"
    longer.write_text(table.read_text() + '"c8","data_nothing"\n"c9","data_nothing"\n')

    def interrupted() -> None:
        threads(2, lambda rank: reconstruct((table, longer)[rank], output))  # not joined
        assert not output.exists()

    interrupted()
    (found,) = threads(1, lambda _: reconstruct(table, output))
    assert "holds what an interrupted run has done: go on with --resume" in str(found)
    assert threads(1, lambda _: reconstruct(table, output, resume=True)) == [1]
    assert content(output) == alone
    assert not Path(f"{output}.shards").exists()
    output.unlink()
    interrupted()
    assert threads(1, lambda _: reconstruct(table, output, overwrite=True)) == [1]
    assert content(output) == alone
    assert not Path(f"{output}.shards").exists()


def test_ranks_go_on_from_one_process_and_what_is_replaced_is_gone(
    threads: Threads, table, tmp_path, monkeypatch
):
    """Latents of one process that was stopped; and a run of ranks that was to replace a file."""
    monkeypatch.setattr(model_config, "TRUSTED_PREFIXES", ("nesf.", "stand_in_model."))
    model, output = tmp_path / "model.safetensors", tmp_path / "z.npz"
    config = {"class_path": "stand_in_model.StandIn", "init_args": {}}
    save_model(model, config, StandIn().state_dict())

    def encode(resume: bool = False, overwrite: bool = False, inputs: Path = table) -> int:
        return encode_files(
            [str(inputs)], str(model), str(output), resume=resume, overwrite=overwrite,
            batch_size=1, device="cpu", progress=False,
        )  # fmt: skip

    assert threads(1, lambda _: encode()) == [1]
    whole = Latents.load(output)
    part = output.rename(f"{output}.part")
    pairs = zip(whole.ids[:2], whole.values[:2], strict=True)
    part.write_text("".join(f'"{name}"\t{to_text(0 * latent)}\n' for name, latent in pairs))
    assert threads(2, lambda _: encode(resume=True)) == [1, 1]
    again = Latents.load(output)
    assert again.ids == whole.ids
    assert (again.values[:2] == 0).all()  # those that were there
    assert (again.values[2:] == whole.values[2:]).all()
    longer = tmp_path / "longer.csv"
    longer.write_text(table.read_text() + '"c8","data_nothing"\n"c9","data_nothing"\n')
    first, _ = threads(2, lambda rank: encode(overwrite=True, inputs=(table, longer)[rank]))
    assert "have not read the same inputs" in str(first)
    assert threads(2, lambda _: encode(resume=True)) == [1, 1]
    assert (Latents.load(output).values == whole.values).all()  # and none of before


def test_one_process_and_ranks_do_not_write_at_once(threads: Threads, table, tmp_path, alone):
    output = tmp_path / "many" / "out.csv"
    output.parent.mkdir()
    lock = OutputLock(output)
    for size in (1, 2):
        found = threads(size, lambda rank: reconstruct(table, output))
        assert "another run is writing into" in str(found[0])
    assert not output.exists()
    output.write_text("what another writes")
    for size in (1, 2):
        found = threads(size, lambda rank: reconstruct(table, output, overwrite=True))
        assert "another run is writing into" in str(found[0])
        assert output.read_text() == "what another writes"
    output.unlink()
    lock.release()
    assert threads(2, lambda rank: reconstruct(table, output, resume=True)) == [1, 1]
    assert content(output) == alone


def test_one_process_leaves_the_shards_of_a_run_that_is_alive(
    threads: Threads, table, tmp_path, monkeypatch
):
    """The note of rank 0 goes on changing."""
    monkeypatch.setenv(PATIENCE, "0.4")
    output = tmp_path / "out.csv"
    shards = output.with_name("out.csv.shards")
    shards.mkdir()
    shard, note = shards / "shard-00000-0.jsonl", shards / "note-00000.json"
    shard.write_text("what was done")
    stop = threading.Event()

    def live() -> None:
        beats = count(1)
        while not stop.wait(0.005):
            beat(next(beats))

    def beat(number: int) -> None:
        temporary = tmp_path / "note"
        temporary.write_text(json.dumps({"launch": "other", "beat": number}))
        temporary.replace(note)

    beat(0)
    alive = threading.Thread(target=live)
    alive.start()
    try:
        (found,) = threads(1, lambda _: reconstruct(table, output, overwrite=True))
    finally:
        stop.set()
        alive.join()
    assert "another run is working in" in str(found)
    assert shard.read_text() == "what was done"


@pytest.mark.parametrize(("absent", "kind"), [(1, NesfError), (0, LostLeader)])
def test_a_rank_that_never_comes(threads: Threads, table, tmp_path, monkeypatch, absent, kind):
    monkeypatch.setenv(PATIENCE, "0.05")
    (error,) = threads(2, lambda rank: reconstruct(table, tmp_path / "out.csv"), absent=[absent])
    assert type(error) is kind
    assert f"rank {absent} of 2 has not begun" in str(error)
