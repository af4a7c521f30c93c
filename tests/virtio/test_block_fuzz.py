"""Random requests to the block device: right ones against a model, wrong ones against the edges of image and memory."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykrun.errors import VirtqueueError
from pykrun.virtio import block
from pykrun.virtio.block import HEADER, IOERR, OK, RANGE, UNSUPP, BlockDevice
from tests.virtio.fuzzing import BLOCK, blocks, resident, time_limit

SECTORS = 32
SIZE = SECTORS * 512
BEHIND = b"behind the disk" * 300
GUARD = 16

SHORT = 30_000
FULL = 1_000_000
GROWTH = 8 << 20

KINDS = (block.T_IN, block.T_OUT, block.T_FLUSH, block.T_GET_ID, block.T_DISCARD, block.T_WRITE_ZEROES)


@contextmanager
def image() -> Iterator[int]:
    """A file in memory that goes on behind what the guest is to see."""
    fd = os.memfd_create("image")
    try:
        os.write(fd, bytes(SIZE) + BEHIND)
        yield fd
    finally:
        os.close(fd)


def cut(content: bytes, places: Sequence[int]) -> list[memoryview]:
    """The same bytes in pieces."""
    edges = [0, *sorted({place % (len(content) + 1) for place in places}), len(content)]
    return [memoryview(content[a:b]) for a, b in pairwise(edges) if a != b]


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, int, bytes, list[int]]:
    kind = draw(st.sampled_from(KINDS))
    sector = draw(st.integers(0, SECTORS + 1))
    count = draw(st.integers(0, 6))
    if kind == block.T_OUT:
        content = bytes([draw(st.integers(1, 255))]) * (512 * count)
    elif kind in (block.T_DISCARD, block.T_WRITE_ZEROES):
        content = RANGE.pack(sector, count, draw(st.sampled_from((0, 0, 1))))
    else:
        content = bytes(512 * count)  # room, for what reads
    return kind, sector, content, draw(st.lists(st.integers(0, 4096), max_size=6))


def expected(model: bytearray, kind: int, sector: int, content: bytes) -> tuple[int, bytes]:
    """What a disk does, without any of the device's code: status, and what was read."""
    place, size = 512 * sector, len(content)
    if kind in (block.T_IN, block.T_OUT) and place + size > SIZE:
        return IOERR, b""
    if kind == block.T_IN:
        return OK, bytes(model[place : place + size])
    if kind == block.T_OUT:
        model[place : place + size] = content
    elif kind in (block.T_DISCARD, block.T_WRITE_ZEROES):
        _, count, flags = RANGE.unpack(content)
        if kind == block.T_DISCARD and flags:
            return UNSUPP, b""
        if place + 512 * count > SIZE:
            return IOERR, b""
        model[place : place + 512 * count] = bytes(512 * count)
    return OK, b""


@given(st.lists(requests(), max_size=30))
@settings(max_examples=150)
def test_a_disk_is_what_was_written_to_it(sequence: list[tuple[int, int, bytes, list[int]]]) -> None:
    with image() as fd:
        device = BlockDevice(fd, SIZE, serial="fuzz")
        model = bytearray(SIZE)
        for kind, sector, content, places in sequence:
            head = HEADER.pack(kind, 0, sector)
            reads = kind in (block.T_IN, block.T_GET_ID)
            readable = cut(head if reads else head + content, places)
            answer = bytearray(len(content) + 1 if reads else 1)
            written = device.handle(readable, room(answer, places))
            status, found = expected(model, kind, sector, content)
            assert answer[-1] == status
            if kind == block.T_GET_ID:
                assert answer[:-1] == b"fuzz".ljust(20, b"\0")[: len(content)].ljust(len(content), b"\0")
            elif kind == block.T_IN:
                assert bytes(answer[:-1]) == (found or bytes(len(content)))
                assert written == len(found) + 1
            assert os.pread(fd, SIZE, 0) == model
        assert os.pread(fd, SIZE, SIZE) == BEHIND


def room(answer: bytearray, places: Sequence[int]) -> list[memoryview]:
    edges = [0, *sorted({place % len(answer) for place in places} - {0}), len(answer)]
    view = memoryview(answer)
    return [view[a:b] for a, b in pairwise(edges)]


class Guest:
    """Makes requests of which most have something wrong."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.answers = {OK: 0, IOERR: 0, UNSUPP: 0}
        self.refused = 0

    def run(self, chance: random.Random) -> None:
        device = BlockDevice(self.fd, SIZE, read_only=chance.random() < 0.1)
        for _ in range(chance.randrange(1, 4)):
            readable = self._readable(chance)
            memory = bytearray(b"\xa5" * 4096)
            writable = self._writable(chance, memory)
            try:
                length = device.handle(readable, writable)
            except VirtqueueError:
                self.refused += 1
                continue
            total = sum(map(len, writable))
            assert 0 < length <= total
            self.answers[writable[-1][-1]] += 1
            assert memory[:GUARD] == memory[-GUARD:] == b"\xa5" * GUARD

    def _readable(self, chance: random.Random) -> list[memoryview]:
        kind = chance.choice(KINDS) if chance.random() < 0.95 else chance.getrandbits(32)
        sector = chance.choice((0, 1, SECTORS - 1, SECTORS, 2**32, 2**55, 2**64 - 1, chance.randrange(SECTORS)))
        head = HEADER.pack(kind, chance.getrandbits(32), sector)
        content = bytes(chance.choice((0, 1, 15, 16, 17, 511, 512, 513, 1024, 4096)))
        if kind in (block.T_DISCARD, block.T_WRITE_ZEROES) and chance.random() < 0.9:
            edges = (0, 1, SECTORS, 2**22, 2**32 - 1)
            content = b"".join(
                RANGE.pack(chance.choice((sector, 0, 2**64 - 1)), chance.choice(edges), chance.choice((0, 0, 1, 2)))
                for _ in range(chance.choice((1, 1, 2, 32, 33)))
            )
        whole = head + content
        if chance.random() < 0.03:
            whole = whole[: chance.randrange(len(whole) + 1)]
        return cut(whole, [chance.randrange(len(whole) + 1) for _ in range(chance.choice((0, 1, 1, 3)))])

    def _writable(self, chance: random.Random, memory: bytearray) -> list[memoryview]:
        if chance.random() < 0.02:
            return []
        size = chance.choice((1, 2, 20, 21, 22, 512, 513, 514, 1025, 4000))
        inner = memoryview(memory)[GUARD : GUARD + min(size, len(memory) - 2 * GUARD)]
        edges = [0, *sorted({chance.randrange(1, len(inner) + 1) for _ in range(chance.randrange(3))} - {len(inner)})]
        return [inner[a:b] for a, b in zip(edges, [*edges[1:], len(inner)], strict=True)]


def fuzz(inputs: int, seconds: int) -> None:
    size = 0
    with image() as fd, time_limit(seconds):
        guest = Guest(fd)
        for number, (name, chance) in enumerate(blocks(inputs)):
            for _ in range(BLOCK):
                try:
                    guest.run(chance)
                except Exception as error:
                    raise AssertionError(f"block {name}: {error!r}") from error
            assert os.pread(fd, 2 * SIZE, SIZE) == BEHIND
            assert os.fstat(fd).st_size == SIZE + len(BEHIND)
            if number == 5:
                size = resident()
        assert resident() - size < GROWTH
        assert min(*guest.answers.values(), guest.refused) > inputs // 50, (guest.answers, guest.refused)


def test_fuzz_short() -> None:
    fuzz(SHORT, 120)


@pytest.mark.full
def test_fuzz_a_million() -> None:
    fuzz(FULL, 3600)
