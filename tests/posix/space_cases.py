"""Holes, allocation, copies on the host."""

from __future__ import annotations

import os
from errno import EINVAL, ENXIO, EOPNOTSUPP

from tests.posix.table import add, case, get, outcome, put
from tests.posix.view import View

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
BLOCK = 4096


def four_blocks(view: View) -> tuple[object, bytes]:
    data = b"".join(bytes([letter]) * BLOCK for letter in b"abcd")
    put(view, b"x", data)
    return view.open(b"x", os.O_RDWR), data


def allocating(mode: int, offset: int, length: int, view: View) -> None:
    file, data = four_blocks(view)
    error = outcome(view.fallocate, file, mode, offset, length)
    end = offset + length
    assert error in (EOPNOTSUPP, rules(mode, offset, length))  # Linux' FUSE knows neither collapse nor insert
    if error:
        expected = data
    elif mode == COLLAPSE:
        expected = data[:offset] + data[end:]
    elif mode == INSERT:
        expected = data[:offset] + bytes(length) + data[offset:]
    elif mode & (PUNCH_HOLE | ZERO):
        inside = max(0, min(end, len(data)) - offset)
        expected = data[:offset] + bytes(inside) + data[offset + inside :]
        if mode == ZERO:
            expected = expected.ljust(end, b"\0")
    else:
        expected = data if mode & KEEP_SIZE else data.ljust(end, b"\0")
    assert view.fstat(file).size == len(expected)
    assert view.pread(file, 65536, 0) == expected
    view.close(file)


def rules(mode: int, offset: int, length: int) -> int:
    if not length:
        return EINVAL
    if mode in (COLLAPSE, INSERT):
        aligned = offset % BLOCK == 0 and length % BLOCK == 0
        inside = offset + length < 4 * BLOCK if mode == COLLAPSE else offset < 4 * BLOCK
        return 0 if aligned and inside else EINVAL
    return 0


RANGES = ((0, BLOCK), (BLOCK, 2 * BLOCK), (100, 50), (3 * BLOCK, 4 * BLOCK), (8 * BLOCK, BLOCK), (0, 0))
for _label, _mode in {
    "plain": 0,
    "keep": KEEP_SIZE,
    "punch": PUNCH_HOLE | KEEP_SIZE,
    "zero": ZERO,
    "zero_keep": ZERO | KEEP_SIZE,
    "collapse": COLLAPSE,
    "insert": INSERT,
}.items():
    for _offset, _length in RANGES:
        if _label == "zero" and _offset >= 4 * BLOCK:
            continue  # file systems differ in what they say here
        add(f"fallocate_{_label}_{_offset}_{_length}", allocating, _mode, _offset, _length)


@case
def data_and_holes(view: View) -> None:
    file = view.open(b"x", os.O_RDWR | os.O_CREAT)
    view.pwrite(file, b"d" * BLOCK, 16 * BLOCK)
    view.ftruncate(file, 64 * BLOCK)
    view.fsync(file)
    assert view.lseek(file, 0, os.SEEK_HOLE) == 0
    assert view.lseek(file, 0, os.SEEK_DATA) == 16 * BLOCK
    assert view.lseek(file, 16 * BLOCK, os.SEEK_HOLE) == 17 * BLOCK
    assert outcome(view.lseek, file, 17 * BLOCK, os.SEEK_DATA) == ENXIO
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        assert outcome(view.lseek, file, 64 * BLOCK, whence) == ENXIO
    view.close(file)


@case
def sparse_files_take_no_room(view: View) -> None:
    put(view, b"x")
    view.truncate(b"x", 1 << 40)
    found = view.stat(b"x")
    assert found.size == 1 << 40
    assert found.blocks < 100


def copying(offset: int, length: int, offset_out: int, view: View) -> None:
    data = bytes(range(256)) * 64
    put(view, b"from", data)
    put(view, b"to", b"-" * 100)
    source, target = view.open(b"from", os.O_RDONLY), view.open(b"to", os.O_RDWR)
    copied = view.copy_file_range(source, offset, target, offset_out, length)
    assert copied == max(0, min(length, len(data) - offset))
    expected = bytearray((b"-" * 100).ljust(offset_out if copied else 0, b"\0"))
    expected[offset_out : offset_out + copied] = data[offset : offset + copied]
    assert view.pread(target, 65536, 0) == expected
    view.close(source)
    view.close(target)


for _offset, _length, _offset_out in ((0, 16384, 0), (100, 50, 10), (16000, 9999, 50), (0, 4096, 8192), (20000, 5, 0)):
    add(f"copy_{_length}_from_{_offset}_to_{_offset_out}", copying, _offset, _length, _offset_out)


@case
def copying_within_one_file(view: View) -> None:
    put(view, b"x", b"abcdef" + bytes(100))
    file = view.open(b"x", os.O_RDWR)
    assert view.copy_file_range(file, 0, file, 50, 6) == 6
    assert view.pread(file, 6, 50) == b"abcdef"
    view.close(file)


@case
def allocated_room_reads_as_zeros(view: View) -> None:
    file = view.open(b"x", os.O_RDWR | os.O_CREAT)
    view.fallocate(file, 0, 0, 1 << 20)
    assert view.fstat(file).blocks * 512 >= 1 << 20
    assert view.pread(file, 100, (1 << 20) - 50) == bytes(50)
    view.close(file)
    assert get(view, b"x") == bytes(1 << 20)
