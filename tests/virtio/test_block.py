"""The block device on real rings and files: what it does, and what it makes of wrong requests."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

import pytest

from pykrun.errors import VirtqueueError
from pykrun.virtio import block
from pykrun.virtio.block import HEADER, IOERR, OK, RANGE, UNSUPP, BlockDevice
from tests.virtio.driver import Buffer, Driver

SECTORS = 64
CONTENT = b"".join(bytes([number]) * 512 for number in range(SECTORS))
UNANSWERED = 0xEE
CONFIG = Struct("<QIIHBBIBBHIBxHIIIIIB3x")


class Disk:
    """An image, the device over it, and a ring."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        path.write_bytes(CONTENT)
        self.path = path
        self.fd = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)
        self.device = BlockDevice(self.fd, SECTORS * 512, read_only=read_only, serial="serial number")
        self.driver = Driver(16, 1 << 20)
        self.queue = self.driver.queue()

    def close(self) -> None:
        self.queue.stop()
        self.driver.close()
        os.close(self.fd)

    def submit(self, buffers: list[Buffer]) -> int:
        """Have one chain served; return its used length."""
        self.driver.offer(self.driver.indirect(buffers))
        self.queue.refresh()
        self.device.serve(self.queue)
        self.queue.notify()
        ((_head, length),) = self.driver.finished()
        return length

    def request(self, kind: int, sector: int = 0, content: bytes = b"", room: int = 0) -> tuple[int, bytes, int]:
        """One request in Linux's shape: (status, what was written into the room, used length)."""
        driver = self.driver
        buffers = [driver.place(HEADER.pack(kind, 0, sector))]
        buffers += [driver.place(content)] if content else []
        answer = driver.room(room) if room else None
        buffers += [answer] if answer else []
        status = driver.place(bytes([UNANSWERED]))
        length = self.submit([*buffers, (status[0], 1, True)])
        written = driver.read(answer[0], room) if answer else b""
        return driver.read(status[0], 1)[0], written, length

    def content(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "image")
    yield disk
    disk.close()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "image", read_only=True)
    yield disk
    disk.close()


def ranges(*parts: tuple[int, int, int]) -> bytes:
    return b"".join(RANGE.pack(*part) for part in parts)


def test_configuration(disk: Disk, read_only: Disk) -> None:
    """struct virtio_blk_config: 60 bytes."""
    fields = CONFIG.unpack(disk.device.config())
    assert fields[:3] == (SECTORS, 0, 254)
    assert fields[6] == 512
    assert fields[13:] == (1 << 22, 32, 8, 1 << 17, 32, 1)
    assert CONFIG.unpack(read_only.device.config())[14:] == (0, 0, 0, 0, 0)
    assert (disk.device.device_id, disk.device.queue_count) == (2, 1)


def test_features(disk: Disk, read_only: Disk) -> None:
    common = block.F_SEG_MAX | block.F_BLK_SIZE | block.F_FLUSH
    assert disk.device.features == common | block.F_DISCARD | block.F_WRITE_ZEROES
    assert read_only.device.features == common | block.F_RO


def test_reads(disk: Disk) -> None:
    assert disk.request(block.T_IN, 3, room=1024) == (OK, CONTENT[3 * 512 : 5 * 512], 1025)
    assert disk.request(block.T_IN, SECTORS - 1, room=512) == (OK, CONTENT[-512:], 513)


def test_writes(disk: Disk) -> None:
    assert disk.request(block.T_OUT, 7, b"w" * 1024) == (OK, b"", 1)
    assert disk.content() == CONTENT[: 7 * 512] + b"w" * 1024 + CONTENT[9 * 512 :]


def test_scattered_buffers_are_filled_in_order(disk: Disk) -> None:
    driver = disk.driver
    rooms = [driver.room(size) for size in (1, 511, 100, 412)]
    status = driver.room(1)
    assert disk.submit([driver.place(HEADER.pack(block.T_IN, 0, 1)), *rooms, status]) == 1025
    assert b"".join(driver.read(at, size) for at, size, _ in rooms) == CONTENT[512:1536]
    assert driver.read(status[0], 1) == bytes([OK])


def test_a_header_in_pieces_and_a_status_behind_the_data(disk: Disk) -> None:
    """With VERSION_1 the driver may cut a request as it likes (virtio 1.2, 2.7.4)."""
    driver = disk.driver
    head = HEADER.pack(block.T_IN, 0, 2)
    room = driver.room(513)
    assert disk.submit([driver.place(head[:3]), driver.place(head[3:11]), driver.place(head[11:]), room]) == 513
    assert driver.read(room[0], 513) == CONTENT[1024:1536] + bytes([OK])


def test_a_header_and_data_in_one_piece(disk: Disk) -> None:
    driver = disk.driver
    status = driver.room(1)
    disk.submit([driver.place(HEADER.pack(block.T_OUT, 0, 5) + b"a" * 200), driver.place(b"b" * 312), status])
    assert driver.read(status[0], 1) == bytes([OK])
    assert disk.content()[5 * 512 : 6 * 512] == b"a" * 200 + b"b" * 312


def test_serial_number(disk: Disk) -> None:
    assert disk.request(block.T_GET_ID, room=20) == (OK, b"serial number".ljust(20, b"\0"), 21)
    assert disk.request(block.T_GET_ID, room=6) == (OK, b"serial", 7)
    long = BlockDevice(disk.fd, 512, serial="x" * 30)
    room, status = bytearray(40), bytearray(1)
    assert long.handle([memoryview(HEADER.pack(8, 0, 0))], [memoryview(room), memoryview(status)]) == 21
    assert room == b"x" * 20 + bytes(20)


def test_flush_reaches_the_file(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushed.append)
    assert disk.request(block.T_FLUSH) == (OK, b"", 1)
    assert flushed == [disk.fd]


def test_what_a_flush_has_lost_stays_lost(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says EIO once, and then that all is well."""

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        assert disk.request(block.T_FLUSH)[0] == IOERR
    assert disk.request(block.T_FLUSH)[0] == IOERR


def test_discard_makes_holes(disk: Disk) -> None:
    before = os.fstat(disk.fd).st_blocks
    assert disk.request(block.T_DISCARD, content=ranges((0, 8, 0), (16, 16, 0))) == (OK, b"", 1)
    content = disk.content()
    assert content[:4096] == bytes(4096)
    assert content[4096:8192] == CONTENT[4096:8192]
    assert content[8192:16384] == bytes(8192)
    assert len(content) == len(CONTENT)
    assert os.fstat(disk.fd).st_blocks < before


@pytest.mark.parametrize("flags", [0, 1])
def test_write_zeroes(disk: Disk, flags: int) -> None:
    assert disk.request(block.T_WRITE_ZEROES, content=ranges((5, 3, flags), (60, 4, flags))) == (OK, b"", 1)
    assert disk.content() == CONTENT[:2560] + bytes(1536) + CONTENT[4096:30720] + bytes(2048)


def test_where_the_file_system_makes_no_holes(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros are written, data that was discarded stays."""

    def unable(*_arguments: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(block.linux, "fallocate", unable)
    monkeypatch.setattr(block, "_ZEROS", 1000)
    assert disk.request(block.T_DISCARD, content=ranges((0, 8, 0)))[0] == OK
    assert disk.content() == CONTENT
    assert disk.request(block.T_WRITE_ZEROES, content=ranges((1, 9, 1)))[0] == OK
    assert disk.content() == CONTENT[:512] + bytes(9 * 512) + CONTENT[5120:]


BEYOND = 2**64 // 512


@pytest.mark.parametrize(
    ("kind", "sector", "size"),
    [
        (block.T_IN, SECTORS, 512),
        (block.T_IN, SECTORS - 1, 1024),
        (block.T_IN, 2**64 - 1, 512),
        (block.T_IN, BEYOND, 512),
        (block.T_IN, 0, 511),
        (block.T_IN, 0, 513),
        (block.T_OUT, SECTORS, 512),
        (block.T_OUT, SECTORS - 1, 1024),
        (block.T_OUT, 2**64 - 1, 512),
        (block.T_OUT, BEYOND, 512),
        (block.T_OUT, 0, 511),
    ],
)
def test_outside_of_the_disk(disk: Disk, kind: int, sector: int, size: int) -> None:
    content, room = (b"", size) if kind == block.T_IN else (b"x" * size, 0)
    status, written, length = disk.request(kind, sector, content, room)
    assert (status, length) == (IOERR, 1)
    assert written == bytes(room)
    assert disk.content() == CONTENT


@pytest.mark.parametrize("kind", [block.T_DISCARD, block.T_WRITE_ZEROES])
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", IOERR),
        (b"x" * 15, IOERR),
        (ranges((0, 8, 0)) + b"x", IOERR),
        (ranges((SECTORS, 1, 0)), IOERR),
        (ranges((SECTORS - 1, 2, 0)), IOERR),
        (ranges((2**64 - 1, 1, 0)), IOERR),
        (ranges((0, 2**32 - 1, 0)), IOERR),
        (ranges((0, 8, 0), (SECTORS, 1, 0)), IOERR),
        (ranges(*[(0, 1, 0)] * 33), IOERR),
        (ranges((0, 8, 2)), UNSUPP),
        (ranges((0, 8, 2**31)), UNSUPP),
    ],
)
def test_wrong_ranges_change_nothing(disk: Disk, kind: int, content: bytes, status: int) -> None:
    assert disk.request(kind, content=content) == (status, b"", 1)
    assert disk.content() == CONTENT


def test_discard_knows_no_flag(disk: Disk) -> None:
    """virtio 1.2, 5.2.6.2: UNSUPP if the unmap flag is set."""
    assert disk.request(block.T_DISCARD, content=ranges((0, 8, 1)))[0] == UNSUPP
    assert disk.request(block.T_DISCARD, content=ranges((0, 0, 0)))[0] == OK


@pytest.mark.parametrize("kind", [2, 3, 5, 9, 10, 12, 0x80000000, 0xFFFFFFFF])
def test_unknown_requests(disk: Disk, kind: int) -> None:
    assert disk.request(kind, room=512) == (UNSUPP, bytes(512), 1)


@pytest.mark.parametrize("kind", [block.T_OUT, block.T_DISCARD, block.T_WRITE_ZEROES])
def test_read_only(read_only: Disk, kind: int) -> None:
    content = ranges((0, 8, 0)) if kind != block.T_OUT else b"x" * 512
    assert read_only.request(kind, content=content)[0] == IOERR
    assert read_only.request(block.T_FLUSH)[0] == OK
    assert read_only.request(block.T_IN, room=512)[0] == OK
    assert read_only.content() == CONTENT


def test_an_image_that_shrinks(disk: Disk) -> None:
    os.truncate(disk.path, 1000)
    assert disk.request(block.T_IN, 4, room=512)[0] == IOERR
    assert disk.request(block.T_IN, 1, room=512)[0] == IOERR
    assert disk.request(block.T_IN, 0, room=512)[0] == OK


def test_a_full_disk(tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC, and has no end."""
    fd = os.open("/dev/full", os.O_RDWR)
    try:
        device = BlockDevice(fd, 1 << 20)
        status = bytearray([UNANSWERED])
        request = [memoryview(HEADER.pack(block.T_OUT, 0, 0)), memoryview(b"x" * 512)]
        assert device.handle(request, [memoryview(status)]) == 1
        assert status[0] == IOERR
    finally:
        os.close(fd)


def test_what_is_short_of_a_sector_is_not_seen(disk: Disk) -> None:
    assert CONFIG.unpack(BlockDevice(disk.fd, 1023).config())[0] == 1


@pytest.mark.parametrize("case", ["no status", "no header", "short header"])
def test_requests_that_cannot_be_answered_stop_the_queue(disk: Disk, case: str) -> None:
    driver = disk.driver
    buffers = {
        "no status": [driver.place(HEADER.pack(block.T_IN, 0, 0))],
        "no header": [driver.room(513)],
        "short header": [driver.place(bytes(15)), driver.room(513)],
    }[case]
    driver.offer(driver.indirect(buffers))
    disk.queue.refresh()
    with pytest.raises(VirtqueueError):
        disk.device.serve(disk.queue)


def test_the_header_is_read_once(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that changes the sector after it was checked must not reach another one: the copy decides."""
    view = memoryview(bytearray(HEADER.pack(block.T_OUT, 0, 1)))
    real = os.pwritev
    seen: list[int] = []

    def spy(fd: int, buffers: list[memoryview], offset: int) -> int:
        view[:] = HEADER.pack(block.T_OUT, 0, SECTORS + 5)
        seen.append(offset)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", spy)
    status = bytearray(1)
    disk.device.handle([view, memoryview(b"y" * 512)], [memoryview(status)])
    assert seen == [512]
    assert status[0] == OK


def test_more_buffers_than_one_call_takes(disk: Disk) -> None:
    """IOV_MAX is 1024; a ring of that size can carry longer lists only by joining, but the device need not know."""
    buffers = [bytearray(b"z" * 8) for _ in range(SECTORS * 64)]
    status = bytearray(1)
    head = memoryview(HEADER.pack(block.T_OUT, 0, 0))
    assert disk.device.handle([head, *map(memoryview, buffers)], [memoryview(status)]) == 1
    assert (status[0], disk.content()) == (OK, b"z" * SECTORS * 512)
    head = memoryview(HEADER.pack(block.T_IN, 0, 0))
    back = [bytearray(8) for _ in buffers]
    assert disk.device.handle([head], [*map(memoryview, back), memoryview(status)]) == SECTORS * 512 + 1
    assert (status[0], back) == (OK, buffers)
