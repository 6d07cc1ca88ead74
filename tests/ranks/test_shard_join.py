"""Shards become one output: every row once, under the name that one process gives it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nesf.data.records import Rejected
from nesf.errors import InputError
from nesf.ranks.shards import Entry, Shards


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


def test_crystals_of_a_shard_come_in_order(tmp_path):
    """They are written as they are done, the last line torn by whatever ended the run."""
    shards = Shards(tmp_path / "out.csv")
    shards.folder.mkdir()
    path = shards.new_path(0)
    lines = [f'{n}\t"Å {n}"\t{{"number": {n}}}\n' for n in (4, 0, 12, 2)]
    path.write_text("made by\t{}\n" + "".join(lines) + '6\t"c', encoding="utf-8")
    (found,) = shards.results()
    assert [(entry.number, entry.name, entry.result) for entry in found] == [
        (n, f"Å {n}", f'{{"number": {n}}}') for n in (0, 2, 4, 12)
    ]
    path.write_bytes(path.read_bytes() + b"\xff\n")
    with pytest.raises(InputError, match="is no shard, or is damaged"):
        list(shards.results()[0])
