"""How `nesf compare` works: lines that survive, children that are watched, a folder of its own."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time

import pytest

from eval.compare.children import TIMED_OUT, run_child
from eval.compare.folder import only_one_comparison, prepare
from eval.compare.lines import JsonLines
from nesf.errors import InputError

# lines that survive


def test_a_torn_last_line_is_cut_away_and_later_lines_stand(tmp_path):
    path = tmp_path / "results.jsonl"
    lines = JsonLines(path, ("model", "seed"))
    for value in (1, 2):
        lines.append({"model": "a", "seed": 0, "value": value})
    lines.append({"model": "b", "seed": None, "value": 3})
    whole = path.read_bytes()
    for cut in range(1, 30):
        path.write_bytes(whole + whole[:cut])
        again = JsonLines(path, ("model", "seed"))
        assert path.read_bytes() == whole
        assert [line["value"] for line in again] == [2, 3]
        assert again.get("b", None) == {"model": "b", "seed": None, "value": 3}
    again.append({"model": "c", "seed": 1, "value": 4})
    assert [json.loads(line)["value"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_training_that_diverged_is_still_a_line_of_json(tmp_path):
    lines = JsonLines(tmp_path / "results.jsonl", ("model",))
    lines.append({"model": "a", "curve": [{"val/loss": float("nan"), "step": 1}], "x": (1e400,)})
    (text,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(text, parse_constant=pytest.fail) == lines.get("a")
    assert lines.get("a") == {"model": "a", "curve": [{"val/loss": None, "step": 1}], "x": [None]}


def test_a_damaged_line_in_the_middle_is_told(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"model": "a", "seed": 0}\n{"model\n{"model": "b", "seed": 0}\n')
    with pytest.raises(InputError, match="line 2 is damaged"):
        JsonLines(path, ("model", "seed"))


# children


def child(text: str) -> list[str]:
    return [sys.executable, "-u", "-c", textwrap.dedent(text)]


def test_ctrl_c_reaches_the_child_once_and_waits_until_it_has_saved(tmp_path):
    program = f"""
        import time
        print("ready")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(0.5)  # a second signal would break this off
            open({str(tmp_path / "saved")!r}, "w").close()
    """

    def tell(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_child(child(program), tmp_path / "log", tell)
    assert (tmp_path / "saved").exists()


def test_whatever_else_stops_us_ends_the_child(tmp_path):
    pids = []

    def tell(line: str) -> None:
        pids.append(int(line))
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        run_child(
            child("import os, time; print(os.getpid()); time.sleep(60)"), tmp_path / "log", tell
        )
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_child_tells_how_it_ended(tmp_path):
    log = tmp_path / "log"
    log.write_text("of an earlier run\n")
    ending = run_child(child("print('a'); print('nesf: no such file'); exit(2)"), log)
    assert (ending.code, ending.tail, ending.reason) == (
        2,
        ("a", "nesf: no such file"),
        "no such file",
    )
    killed = run_child(child("import os; os.kill(os.getpid(), 9)"), log)
    assert killed.reason.startswith("it was killed by SIGKILL")
    began = time.monotonic()
    late = run_child(child("import time; time.sleep(60)"), log, timeout_s=0.3)
    assert late.code == TIMED_OUT
    assert time.monotonic() - began < 20


def test_a_left_over_child_keeps_the_folder(tmp_path):
    with only_one_comparison(tmp_path) as lock:
        inherited = os.dup(lock[0])  # as a child has it
    with pytest.raises(InputError, match="at work in"), only_one_comparison(tmp_path):
        pass
    os.close(inherited)
    with only_one_comparison(tmp_path):
        pass


def test_fresh_removes_what_a_comparison_wrote_and_nothing_else(tmp_path):
    terms = {"data": {}, "models": {}}
    prepare(tmp_path, terms, "no")
    (tmp_path / "models").mkdir()
    for name in ("results.jsonl", "models/x", "mine.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="holds a comparison already"):
        prepare(tmp_path, terms, "no")
    prepare(tmp_path, terms, "fresh")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "plan.json"}


def test_models_may_be_added_but_not_changed(tmp_path):
    terms = {"data": {}, "models": {"a": {"config": "a", "sha256": "1"}}}
    prepare(tmp_path, terms, "no")
    more = {"data": {}, "models": {"b": {"config": "b", "sha256": "2"}}}
    prepare(tmp_path, more, "auto")
    changed = {"data": {}, "models": {"a": {"config": "a", "sha256": "3"}}}
    with pytest.raises(InputError, match=r"other terms \(sha256 of the model a\)"):
        prepare(tmp_path, changed, "auto")


def test_parts_may_be_added_and_fresh_clears_them_all(tmp_path):
    def part(sha256: str) -> dict:
        return {"data": {}, "models": {"a": {"config": "a", "sha256": sha256}}}

    prepare(tmp_path, {"parts": {"one": part("1")}}, "no")
    prepare(tmp_path, {"parts": {"two": part("2")}}, "auto")
    assert set(json.loads((tmp_path / "plan.json").read_text())["parts"]) == {"one", "two"}
    with pytest.raises(InputError, match=r"sha256 of the model a of the part one"):
        prepare(tmp_path, {"parts": {"one": part("3")}}, "auto")
    with pytest.raises(InputError, match=r"other terms \(parts\)"):
        prepare(tmp_path, part("1"), "auto")
    for name in ("one", "two"):
        (tmp_path / name / "models").mkdir(parents=True)
    (tmp_path / "two" / "mine.txt").touch()
    prepare(tmp_path, part("1"), "fresh")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"plan.json", "two", "two/mine.txt"}
