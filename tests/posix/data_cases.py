"""Bytes: sizes and offsets around every boundary there is."""

from __future__ import annotations

import os
from errno import EFBIG, EINVAL
from random import Random

from tests.posix.table import add, case, get, outcome, put
from tests.posix.view import View

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZES = (
    0,
    1,
    2,
    511,
    512,
    4095,
    4096,
    4097,
    65535,
    65536,
    65537,
    128 * KIB - 1,
    128 * KIB,
    128 * KIB + 1,
    MIB - 1,
    MIB,
)
OFFSETS = (0, 1, 4095, 4096, 4097, 128 * KIB, MIB - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 32) + 1, 5 * GIB)


def pattern(size: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


def round_trip(size: int, view: View) -> None:
    data = pattern(size)
    put(view, b"x", data)
    assert view.stat(b"x").size == size
    assert get(view, b"x") == data
    file = view.open(b"x", os.O_RDONLY)
    assert view.pread(file, 4096, size) == b""
    assert view.pread(file, 100, max(0, size - 50)) == data[-50:] if size else True
    view.close(file)


def at_offset(offset: int, view: View) -> None:
    file = view.open(b"x", os.O_RDWR | os.O_CREAT)
    assert view.pwrite(file, b"middle", offset) == 6
    assert view.fstat(file).size == offset + 6
    assert view.pread(file, 6, offset) == b"middle"
    if offset:
        start = max(0, offset - 10)
        assert view.pread(file, 100, start) == bytes(offset - start) + b"middle"
    view.close(file)
    assert view.lstat(b"x").blocks * 512 < 2 * MIB or offset < MIB


def truncating(before: int, after: int, by_file: bool, view: View) -> None:
    data = pattern(min(before, MIB))
    put(view, b"x", data)
    if before > MIB:
        view.truncate(b"x", before)
    if by_file:
        file = view.open(b"x", os.O_RDWR)
        view.ftruncate(file, after)
        view.close(file)
    else:
        view.truncate(b"x", after)
    assert view.stat(b"x").size == after
    kept = data[:after]
    assert get(view, b"x", len(kept) + 100)[: len(kept)] == kept
    if after > len(data):
        file = view.open(b"x", os.O_RDONLY)
        assert view.pread(file, 100, len(data)) == bytes(min(100, after - len(data)))
        assert view.pread(file, 100, after - 1) == b"\0"
        view.close(file)


for _size in SIZES:
    add(f"round_trip_{_size}", round_trip, _size)
for _offset in OFFSETS:
    add(f"write_at_{_offset}", at_offset, _offset)
for _before, _after in (
    (0, 1),
    (1, 0),
    (4096, 4095),
    (4097, 4096),
    (100, MIB),
    (MIB, 100),
    (10, 6 * GIB),
    (6 * GIB, 7),
):
    for _by_file in (False, True):
        add(f"truncate_{_before}_to_{_after}{'_open' if _by_file else ''}", truncating, _before, _after, _by_file)


@case
def many_small_writes_in_any_order(view: View) -> None:
    random = Random(7)
    model = bytearray(40000)
    file = view.open(b"x", os.O_RDWR | os.O_CREAT)
    view.ftruncate(file, len(model))
    for _ in range(300):
        offset = random.randrange(len(model) - 300)
        data = random.randbytes(random.randrange(1, 300))
        view.pwrite(file, data, offset)
        model[offset : offset + len(data)] = data
        if random.random() < 0.2:
            start = random.randrange(len(model))
            assert view.pread(file, 500, start) == model[start : start + 500]
    view.close(file)
    assert get(view, b"x") == model


@case
def overwriting_keeps_the_rest(view: View) -> None:
    put(view, b"x", b"a" * 10000)
    file = view.open(b"x", os.O_WRONLY)
    view.pwrite(file, b"B" * 100, 5000)
    view.close(file)
    assert get(view, b"x") == b"a" * 5000 + b"B" * 100 + b"a" * 4900


@case
def truncating_while_it_is_open_twice(view: View) -> None:
    put(view, b"x", b"0123456789")
    one, two = view.open(b"x", os.O_RDWR), view.open(b"x", os.O_RDONLY)
    view.ftruncate(one, 4)
    assert view.pread(two, 10, 0) == b"0123"
    view.truncate(b"x", 8)
    assert view.pread(two, 10, 0) == b"0123\0\0\0\0"
    view.close(one)
    view.close(two)


@case
def through_a_link(view: View) -> None:
    view.mkdir(b"d")
    put(view, b"d/file", b"one")
    view.symlink(b"d", b"to-d")
    view.symlink(b"to-d/file", b"to-file")
    assert get(view, b"to-file") == b"one"
    view.truncate(b"to-file", 1)
    view.chmod(b"to-file", 0o600)
    assert (get(view, b"d/file"), view.stat(b"d/file").mode & 0o777) == (b"o", 0o600)


@case
def the_end_of_all_offsets(view: View) -> None:
    put(view, b"x", b"1")
    if outcome(view.truncate, b"x", (1 << 63) - 1) == 0:  # a file system in memory has room for it
        view.truncate(b"x", 1)
    file = view.open(b"x", os.O_WRONLY)
    assert outcome(view.pwrite, file, b"12345678", (1 << 63) - 4) in (EFBIG, EINVAL)
    view.close(file)
    assert view.stat(b"x").size == 1
