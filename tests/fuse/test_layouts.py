"""Requests and rooms for replies come in any number of parts, wherever they are cut."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence

import pytest

from pykrun.fs import FileSource, InodeAllocator, NullFs
from tests.fs.memory import MemoryFs
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest, augmented, cut, io_in, message

DATA = bytes(random.Random(1).randbytes(40000))

CUTS: tuple[Sequence[int], ...] = (
    (),
    (16,),
    (1,) * 20,
    (8, 8),
    (15,),
    (17,),
    (4, 40, 1, 1),
    (16, 100),
    (16, 4096, 4096),
    (20, 1, 0, 3),
    (0, 16, 0),
)


@pytest.fixture
def guest() -> Guest:
    fs = augmented()
    fs.add_file(b"/data", DATA)
    return Guest(fs)


@pytest.mark.parametrize("reply_parts", CUTS)
@pytest.mark.parametrize("parts", [(), (40,), (1,) * 50, (39,), (41,), (0, 40, 0), (16, 24, 20)])
def test_every_cut(guest: Guest, parts: Sequence[int], reply_parts: Sequence[int]) -> None:
    found = guest.call(fuse.LOOKUP, 1, b"data\0", parts=parts, reply_parts=reply_parts)
    node = fuse.entry_out(found.body).nodeid
    again = guest.call(fuse.GETATTR, node, bytes(16), parts=parts, reply_parts=reply_parts)
    assert fuse.attr(again.body[16:]).size == len(DATA)
    opened = guest.call(fuse.OPEN, node, bytes(8), parts=parts, reply_parts=reply_parts)
    (fh,) = struct.unpack_from("<Q", opened.body)
    for offset, size in ((0, 40000), (17, 4096), (39990, 100), (50000, 100)):
        for spare in (0, 1, 3000):
            room = 16 + size + spare
            reply = guest.call(
                fuse.READ, node, io_in(fh, offset, size), room=room, parts=parts, reply_parts=reply_parts
            )
            assert reply == (0, DATA[offset : offset + size])
    body = struct.pack("<QIIQ", fh, 0, 0, 0)
    assert guest.call(fuse.RELEASE, node, body, parts=parts, reply_parts=reply_parts) == (0, b"")
    body = struct.pack("<QIIQ", fh, 0, 0, 0)
    assert guest.call(fuse.RELEASE, node, body, parts=parts, reply_parts=reply_parts).error == 9


@pytest.mark.parametrize("reply_parts", CUTS)
def test_reads_of_a_host_file_in_every_cut(
    reply_parts: Sequence[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("data") / "file"
    path.write_bytes(DATA)
    fs = augmented()
    fs.add_file(b"/data", FileSource.of_path(path))
    guest = Guest(fs)
    node = guest.lookup(1, b"data").nodeid
    fh = guest.open(node)
    for offset, size in ((0, 40000), (17, 4096), (39990, 100), (50000, 100)):
        reply = guest.call(fuse.READ, node, io_in(fh, offset, size), room=size + 99, reply_parts=reply_parts)
        assert reply == (0, DATA[offset : offset + size])
    fs.close()


def test_nothing_beyond_the_reply_is_touched(guest: Guest) -> None:
    node = guest.lookup(1, b"data").nodeid
    fh = guest.open(node)
    space = bytearray(b"\xaa" * 300)
    length = guest.server.handle(cut(message(fuse.READ, node, io_in(fh, 0, 100)), (40,)), cut(space, (16, 7)))
    assert length == 116
    assert space[16:116] == DATA[:100]
    assert space[116:] == b"\xaa" * 184


@pytest.mark.parametrize("pages", [1, 3, 256])
def test_a_page_each(guest: Guest, pages: int) -> None:
    node = guest.lookup(1, b"data").nodeid
    fh = guest.open(node)
    body = io_in(fh, 0, pages * 4096)
    reply = guest.call(fuse.READ, node, body, room=16 + pages * 4096, reply_parts=(16, *(4096,) * pages))
    assert reply == (0, DATA[: pages * 4096])


@pytest.mark.parametrize("size", [1, 100, 4000, 4096, 65536, 1 << 20])
@pytest.mark.parametrize("parts", [(), (40, 40), (80,), (1,) * 90, (40, 40, *(4096,) * 8), (79,), (81,)])
def test_writes_in_every_cut(size: int, parts: Sequence[int]) -> None:
    inner = MemoryFs(InodeAllocator())
    inner.plant(b"/file", b"")
    guest = Guest(inner)
    node = guest.lookup(1, b"file").nodeid
    fh = guest.open(node, 2)
    data = random.Random(size).randbytes(size)
    reply = guest.call(fuse.WRITE, node, io_in(fh, 3, size) + data, parts=parts)
    assert reply == (0, struct.pack("<II", size, 0))
    assert bytes(inner.find(b"/file").data) == b"\0\0\0" + data


def test_data_of_a_write_is_not_copied() -> None:
    """The guest changes its memory while the request is served: the file system sees that, so it had no copy."""

    class Watching(MemoryFs):
        def write(self, ino, handle, offset, buffers, flags, kill):  # type: ignore[no-untyped-def]
            memory[-1] = 0x77
            return super().write(ino, handle, offset, buffers, flags, kill)

    inner = Watching(InodeAllocator())
    inner.plant(b"/file", b"")
    guest = Guest(inner)
    node = guest.lookup(1, b"file").nodeid
    fh = guest.open(node, 2)
    memory = bytearray(message(fuse.WRITE, node, io_in(fh, 0, 8192) + bytes(8192)))
    assert guest.server.handle(cut(memory, (40, 40)), cut(bytearray(100), (16,))) == 24
    assert inner.find(b"/file").data[-1] == 0x77


def test_header_is_read_once() -> None:
    """What was checked is what is used: a guest that changes names under the server's eyes changes nothing."""

    class Changing(NullFs):
        def lookup(self, parent: int, name: bytes) -> object:  # type: ignore[override]
            memory[:] = b"/" * len(memory)
            names.append(name)
            return super().lookup(parent, name)

    names: list[bytes] = []
    guest = Guest(Changing())
    memory = bytearray(message(fuse.LOOKUP, 1, b"good\0"))
    assert guest.server.handle(cut(memory, (40,)), cut(bytearray(200), (16,))) == 144
    assert names == [b"good"]


def test_structure_of_a_long_request_is_read_once() -> None:
    class Changing(list[memoryview]):
        """The guest writes into the structure between the server's looks at the parts."""

        looks = 0

        def __iter__(self) -> Iterator[memoryview]:
            self.looks += 1
            if self.looks == 3:
                memory[40:48] = b"\xff" * 8
            return super().__iter__()

    inner = MemoryFs(InodeAllocator())
    guest = Guest(inner)
    memory = bytearray(message(fuse.SETXATTR, 1, struct.pack("<II", 5000, 0) + b"user.x\0" + bytes(5000)))
    readable = Changing(cut(memory, (40,)))
    space = bytearray(100)
    assert guest.server.handle(readable, cut(space, (16,))) == 16
    assert readable.looks == 3
    assert space[4:8] == bytes(4)
    assert inner.root.xattrs == {b"user.x": bytes(5000)}


@pytest.mark.parametrize("room", range(0, 160, 3))
def test_too_little_room(guest: Guest, room: int) -> None:
    """Too little for the answer is EINVAL, too little for any is silence; nothing was done in either case."""
    fs = guest.server.filesystem
    fs.add_file(b"/once", b"secret", one_shot=True)  # type: ignore[attr-defined]
    answer = guest.send(message(fuse.LOOKUP, 1, b"once\0"), room)
    if room < 16:
        assert answer == b""
    elif room < 144:
        assert struct.unpack("<IiQ", answer) == (16, -22, 2)
    else:
        assert len(answer) == 144
    expected = 2 if room >= 144 else 0
    assert guest.lookup_error(1, b"once") == expected
