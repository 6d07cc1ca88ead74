"""Commands that are interrupted, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from command_line import complaint, nesf, rows_of, table

from nesf.api import Model
from nesf.data.output_lock import OutputLock
from nesf.latents import Latents


def test_resume_skips_what_is_done(tmp_path, monkeypatch, capsys):
    source = table(tmp_path / "in.csv", 10, bad=(1,))
    straight, broken = tmp_path / "a" / "out.csv", tmp_path / "b" / "out.csv"
    assert nesf("reconstruct", source, "--field", "exact", "--output", straight) == 1

    from nesf.commands import ways

    exact, calls = ways.exact_fields, []

    def fails_in_the_third_batch(*arguments):
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return exact(*arguments)

    words = ("reconstruct", source, "--field=exact", "--batch-size=3", "--output", broken)
    monkeypatch.setattr(ways, "exact_fields", fails_in_the_third_batch)
    assert nesf(*words) == 130
    assert "nesf: interrupted; go on with --resume\n" in capsys.readouterr().err
    assert len(rows_of(broken)) == 6
    with broken.open("a") as file:
        file.write('"c7","data_torn')  # as a killed run leaves it
    monkeypatch.setattr(ways, "exact_fields", exact)
    assert nesf(*words, "--resume") == 1
    assert "3 reconstructed (6 were there already), 1 rejected" in capsys.readouterr().out
    assert broken.read_bytes() == straight.read_bytes()
    assert rows_of(broken.with_name("out.rejected.csv")).keys() == {"c1"}


def test_what_is_done_is_written_while_others_are_refined(tmp_path, monkeypatch, model_file):
    """An interrupt in a batch, some crystals of which were done."""
    source, out = table(tmp_path / "in.csv", 4), tmp_path / "out.csv"
    whole = Model.iter_reconstruct

    def stopped(*arguments):
        for index, found in whole(*arguments):
            for one in index.flip(0)[:2].split(1):
                yield index[one], found.select(one)
        raise KeyboardInterrupt

    words = ("reconstruct", source, "--model", model_file, "--output", out)
    monkeypatch.setattr(Model, "iter_reconstruct", stopped)
    assert nesf(*words) == 130
    assert list(rows_of(out)) == ["c3", "c2"]
    monkeypatch.setattr(Model, "iter_reconstruct", whole)
    assert nesf(*words, "--resume") == 0
    assert sorted(rows_of(out)) == ["c0", "c1", "c2", "c3"]


def test_encoding_goes_on(tmp_path, monkeypatch, model_file, capsys):
    source, out = table(tmp_path / "in.csv", 7, bad=(2,)), tmp_path / "out.npz"
    words = ("encode", source, "--model", model_file, "--output", out, "--batch-size=2")
    straight = tmp_path / "straight.npz"
    assert nesf(*words[:5], straight, *words[6:]) == 1
    encode, calls = Model.encode, []

    def fails_in_the_third_batch(*arguments):
        calls.append(len(calls))
        if len(calls) == 4:  # the first tells how long a latent is
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(Model, "encode", fails_in_the_third_batch)
    assert nesf(*words) == 130
    monkeypatch.setattr(Model, "encode", encode)
    assert "interrupted; go on with --resume" in capsys.readouterr().err
    assert not out.exists()
    part = tmp_path / "out.npz.part"
    assert part.read_text().count("\n") == 4
    with part.open("a") as file:
        file.write('"c5"\tAAA')  # as a killed run leaves it
    assert nesf(*words) == 2
    assert "out.npz.part holds what an interrupted run has done" in complaint(capsys)
    assert nesf(*words, "--resume", "--seed", "1") == 2
    assert "with --seed 0, and not with --seed 1" in complaint(capsys)
    assert nesf(*words, "--resume") == 1
    assert "2 encoded (4 were there already), 1 rejected" in capsys.readouterr().out
    again, whole = Latents.load(out), Latents.load(straight)
    assert again.ids == whole.ids == ("c0", "c1", "c3", "c4", "c5", "c6")
    assert (again.values == whole.values).all()
    assert not list(tmp_path.glob("*.part*"))
    # more crystals later, or all anew
    more = table(tmp_path / "more.csv", 8)
    assert nesf(*words[:1], more, *words[2:]) == 2
    assert f"the file {out} is there already" in complaint(capsys)
    assert nesf(*words[:1], more, *words[2:], "--resume") == 0
    assert Latents.load(out).ids == (*whole.ids, "c2", "c7")
    assert nesf(*words, "--overwrite") == 1
    assert Latents.load(out).ids == whole.ids
    # begun anew and stopped: what is gone on with is what was begun anew

    def another_model(*arguments):
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 2 * encode(*arguments)

    calls.clear()
    monkeypatch.setattr(Model, "encode", another_model)
    assert nesf(*words, "--overwrite") == 130
    assert nesf(*words, "--resume") == 1
    assert (Latents.load(out).values == 2 * whole.values).all()
    monkeypatch.setattr(Model, "encode", encode)
    capsys.readouterr()
    # killed when all was written, but not yet tidied up
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        assert nesf(*words, "--overwrite") == 1
    assert part.exists()
    assert nesf(*words, "--resume") == 1
    assert "0 encoded (6 were there already), 1 rejected" in capsys.readouterr().out
    assert (Latents.load(out).values == whole.values).all()
    assert not part.exists()


def child(*words: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nesf", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_ctrl_c_is_one_line(tmp_path):
    source = table(tmp_path / "in.csv", 40)
    out = tmp_path / "out.jsonl"
    words = ("reconstruct", source, "--field=exact", "--output", out, "--workers=1")
    running = child(*words, "--batch-size=1", "--progress=false")
    deadline = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)  # a terminal sends it to the workers, too
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err == "nesf: interrupted; go on with --resume\n"
    written = out.read_text().splitlines()
    assert 0 < len(written) < 40
    assert nesf(*words[:-1], "--resume") == 0
    lines = out.read_text().splitlines()
    assert lines[: len(written)] == written
    assert len(lines) == 40


def test_a_reader_that_goes_away(tmp_path):
    running = child("data", "pack", "--help")
    running.stdout.close()
    err = running.stderr.read()
    assert running.wait(timeout=30) in (141, 0)
    assert err == ""


def test_resume_mixes_nothing(tmp_path, model_file, capsys):
    """What made the output goes on with it: the same field, model, options and verb."""
    source, out = table(tmp_path / "in.csv", 2), tmp_path / "out.csv"
    exact = ("reconstruct", source, "--field=exact", "--output", out)
    assert nesf(*exact) == 0
    capsys.readouterr()
    for words, told in (
        (("--periodic", "false"), "with --periodic true, and not with --periodic false"),
        (("--grid-spacing", "0.5"), "with no --grid-spacing, and not with --grid-spacing 0.5"),
        (("--cell", "primitive"), "with --cell as-given, and not with --cell primitive"),
    ):
        assert nesf(*exact, "--resume", *words) == 2
        assert told in complaint(capsys)
    model = ("--model", model_file, "--output", out, "--resume")
    assert nesf("reconstruct", source, *model) == 2
    told = complaint(capsys)
    assert "was made with --field exact, " in told
    assert f"model {model_file} (" in told
    # inputs and batches may differ, and the model may have been moved
    more = table(tmp_path / "more.csv", 3)
    assert nesf("reconstruct", more, "--field=exact", "--output", out, "--resume") == 0
    assert "1 reconstructed (2 were there already)" in capsys.readouterr().out
    assert nesf("encode", source, "--model", model_file, "--output", tmp_path / "z.npz") == 0
    words = ("decode", tmp_path / "z.npz", "--output", tmp_path / "decoded")
    assert nesf(*words, "--model", model_file) == 0
    moved = model_file.rename(tmp_path / "moved.safetensors")
    sidecar = f"{model_file.name}.sha256"
    (tmp_path / sidecar).rename(tmp_path / "moved.safetensors.sha256")
    assert nesf(*words, "--model", moved, "--resume", "--batch-size", "1") == 0
    capsys.readouterr()
    assert nesf(*words, "--model", moved, "--resume", "--seed", "1") == 2
    assert "with --seed 0, and not with --seed 1" in complaint(capsys)


def test_a_run_that_another_disturbs_is_told_so(tmp_path, capsys):
    source, out = table(tmp_path / "in.csv", 2), tmp_path / "out"
    out.mkdir()
    lock = OutputLock(out)
    assert nesf("reconstruct", source, "--field=exact", "--output", out) == 2
    assert "another run is writing into" in complaint(capsys)
    lock.release()
    assert nesf("reconstruct", source, "--field=exact", "--output", out) == 0
