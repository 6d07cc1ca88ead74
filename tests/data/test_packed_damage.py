"""Files of packed sets that are damaged, lie or are foreign: refused in a sentence."""

import dataclasses
import string
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_rows import make_rows

from nesf.data import columns
from nesf.data.packed import PackedSet
from nesf.errors import InputError


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_damage_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "damaged.nesf"
    PackedSet.from_rows(make_rows(3)).save(path)
    good = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        good[where] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(good)
    else:
        path.write_bytes(good[:where])
    with pytest.raises(
        InputError, match=r"(damaged|truncated|not a packed set|format version)"
    ) as e:
        PackedSet.load(path)
    assert "damaged.nesf" in str(e.value)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_lying_header_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Without the checksum, only sentences and sound sets come back."""
    path = tmp_path_factory.getbasetemp() / "lying.nesf"
    PackedSet.from_rows(make_rows(3)).save(path)
    good = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", good[16:24])
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(24, 23 + length))
        good[where] = data.draw(st.sampled_from((string.digits + '"[]{}:,-e').encode()))
    path.write_bytes(good)
    with suppress(InputError):
        loaded = PackedSet.load(path, verify=False)
        loaded.batch(range(len(loaded)))


def test_newer_versions_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "set.nesf"
    PackedSet.from_rows(make_rows(2)).save(path)
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<I", 999)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"set.nesf has format version 999.*upgrade nesf"):
        PackedSet.load(path)
    path.write_bytes(b"\x80\x04\x95 a pickle, say")
    with pytest.raises(InputError, match="is not a packed set"):
        PackedSet.load(path)
    with pytest.raises(InputError, match=r"cannot read .*none.nesf: No such file"):
        PackedSet.load(tmp_path / "none.nesf")


def test_bounds_are_checked_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step back is found wherever it is, between two parts, too."""
    monkeypatch.setattr(columns, "BLOCK", 4)
    whole = PackedSet.from_rows(make_rows(11))
    whole.verify()
    for at in range(1, 11):
        offsets = whole.offsets.copy()
        offsets[at] = offsets[at + 1] + 1 if at < 10 else offsets[at - 1] - 1
        with pytest.raises(InputError, match="do not ascend"):
            dataclasses.replace(whole, offsets=offsets).verify()
