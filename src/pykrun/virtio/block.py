"""The virtio block device (virtio 1.2, section 5.2) over an open file or block device of the host.

Data moves by preadv and pwritev straight between the guest's memory and the image. Nothing outside of the image's size
at the start is read or written. What the guest gets wrong is answered with IOERR or UNSUPP; a request that has no place
for an answer, or no header, stops the queue.

Calls block (fdatasync, a slow disk): the device belongs into a process that does nothing else.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from struct import Struct

from pykrun.buffers import clip, scatter, skip
from pykrun.errors import VirtqueueError
from pykrun.host import linux
from pykrun.virtio.device import Device
from pykrun.virtio.ring import Virtqueue

SECTOR = 512
SERIAL_SIZE = 20

F_SEG_MAX = 1 << 2
F_RO = 1 << 5
F_BLK_SIZE = 1 << 6
F_FLUSH = 1 << 9
F_DISCARD = 1 << 13
F_WRITE_ZEROES = 1 << 14

T_IN = 0
T_OUT = 1
T_FLUSH = 4
T_GET_ID = 8
T_DISCARD = 11
T_WRITE_ZEROES = 13

OK, IOERR, UNSUPP = 0, 1, 2

SEG_MAX = 254
"""Data buffers of a request: with header and status 256, User Mode Linux's whole queue."""
MAX_DISCARD = 1 << 22
"""Sectors of one range to discard: 2 GiB, which costs a file system little."""
MAX_WRITE_ZEROES = 1 << 17
"""Sectors of one range to zero: 64 MiB, which may have to be written."""
MAX_RANGES = 32
ALIGNMENT = 8
"""Sectors; what most file systems can make a hole of."""

HEADER = Struct("<IIQ")
"""struct virtio_blk_req: type, reserved, sector."""
RANGE = Struct("<QII")
"""struct virtio_blk_discard_write_zeroes: sector, number of sectors, flags."""

_UNMAP = 1  # VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10  # FALLOC_FL_..., linux/falloc.h
_VECTOR = 1024  # IOV_MAX
_ZEROS = 1 << 20  # bytes written at once where the file system cannot zero a range

# struct virtio_blk_config up to write_zeroes_may_unmap: capacity, size_max, seg_max, geometry, blk_size, topology,
# writeback, num_queues; then per discard and zeroing: most sectors, most ranges, (discard only) alignment.
_CONFIG = Struct("<QIIHBBIBBHIBxHIIIIIB3x")


class BlockDevice(Device):
    """A disk.

    :param descriptor: the image, open for reading and, unless `read_only`, for writing.
    :param size: bytes that the guest sees; what is short of a sector is left out.
    :param serial: what VIRTIO_BLK_T_GET_ID answers, ASCII; cut after 20 bytes.
    """

    device_id = 2
    queue_count = 1

    def __init__(self, descriptor: int, size: int, *, read_only: bool = False, serial: str = "") -> None:
        self.features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | (F_RO if read_only else F_DISCARD | F_WRITE_ZEROES)
        self._fd = descriptor
        self._size = size // SECTOR * SECTOR
        self._read_only = read_only
        self._serial = serial.encode("ascii")[:SERIAL_SIZE].ljust(SERIAL_SIZE, b"\0")
        self._lost = False
        limits = (0,) * 6 if read_only else (MAX_DISCARD, MAX_RANGES, ALIGNMENT, MAX_WRITE_ZEROES, MAX_RANGES, 1)
        geometry = topology = (0, 0, 0)
        self._config = _CONFIG.pack(self._size // SECTOR, 0, SEG_MAX, *geometry, SECTOR, 0, *topology, 1, 1, *limits)
        self._work = {
            T_IN: self._read,
            T_OUT: self._write,
            T_FLUSH: self._flush,
            T_GET_ID: self._get_id,
            T_DISCARD: self._discard,
            T_WRITE_ZEROES: self._write_zeroes,
        }

    def config(self) -> bytes:
        """Return struct virtio_blk_config."""
        return self._config

    def serve(self, queue: Virtqueue) -> None:
        """Do every request that is there, in order: a flush comes after the writes before it."""
        pop, push, handle = queue.pop, queue.push, self.handle
        while (chain := pop()) is not None:
            push(chain, handle(chain.readable, chain.writable))

    def handle(self, readable: Sequence[memoryview], writable: Sequence[memoryview]) -> int:
        """Do one request, put its status into the last byte of `writable`; return the number of bytes written.

        :raise VirtqueueError: no header, or no room for the status.
        """
        if not readable or not writable:
            raise VirtqueueError("block request without a header or without room for its status")
        first = readable[0]
        if len(first) == HEADER.size:
            head, content = bytes(first), readable[1:]
        else:
            head, content = _split(readable)
        kind, _reserved, sector = HEADER.unpack(head)
        last = writable[-1]
        room = writable[:-1] if len(last) == 1 else (*writable[:-1], last[:-1])
        work = self._work.get(kind)
        count = 0
        try:
            status, count = (UNSUPP, 0) if work is None else work(sector, content, room)
        except OSError:  # the host's disk failed or is full, or memory that the guest named is not there
            status = IOERR
        last[-1] = status
        return count + 1

    # Requests: (sector, what the guest wrote, room for the answer) -> (status, bytes written into the room)

    def _read(self, sector: int, _content: Sequence[memoryview], room: Sequence[memoryview]) -> tuple[int, int]:
        size = sum(map(len, room))
        offset = sector * SECTOR
        if size % SECTOR or offset + size > self._size:
            return IOERR, 0
        done = os.preadv(self._fd, room, offset) if 0 < len(room) <= _VECTOR else 0
        while done < size:
            count = os.preadv(self._fd, skip(room, done)[:_VECTOR], offset + done)
            if count == 0:  # the image has shrunk
                return IOERR, done
            done += count
        return OK, size

    def _write(self, sector: int, content: Sequence[memoryview], _room: Sequence[memoryview]) -> tuple[int, int]:
        size = sum(map(len, content))
        offset = sector * SECTOR
        if self._read_only or size % SECTOR or offset + size > self._size:
            return IOERR, 0
        done = os.pwritev(self._fd, content, offset) if 0 < len(content) <= _VECTOR else 0
        while done < size:
            count = os.pwritev(self._fd, skip(content, done)[:_VECTOR], offset + done)
            if count == 0:
                return IOERR, 0
            done += count
        return OK, 0

    def _flush(self, _sector: int, _content: Sequence[memoryview], _room: Sequence[memoryview]) -> tuple[int, int]:
        if self._read_only:
            return OK, 0
        if self._lost:
            return IOERR, 0
        try:
            os.fdatasync(self._fd)
        except OSError:
            # The kernel reports lost writes once and forgets them: no later flush may claim that they are there.
            self._lost = True
            return IOERR, 0
        return OK, 0

    def _get_id(self, _sector: int, _content: Sequence[memoryview], room: Sequence[memoryview]) -> tuple[int, int]:
        return OK, scatter(self._serial, room)

    def _discard(self, _sector: int, content: Sequence[memoryview], _room: Sequence[memoryview]) -> tuple[int, int]:
        status, ranges = self._ranges(content, MAX_DISCARD, flags_allowed=0)
        for offset, size, _flags in ranges:
            self._fallocate(_PUNCH_HOLE, offset, size)  # where that cannot be done the data stays, which is allowed
        return status, 0

    def _write_zeroes(
        self, _sector: int, content: Sequence[memoryview], _room: Sequence[memoryview]
    ) -> tuple[int, int]:
        status, ranges = self._ranges(content, MAX_WRITE_ZEROES, flags_allowed=_UNMAP)
        for offset, size, flags in ranges:
            if not self._fallocate(_PUNCH_HOLE if flags & _UNMAP else _ZERO_RANGE, offset, size):
                self._overwrite(offset, size)
        return status, 0

    def _ranges(
        self, content: Sequence[memoryview], longest: int, *, flags_allowed: int
    ) -> tuple[int, list[tuple[int, int, int]]]:
        """Return OK and (offset, size, flags) in bytes of each range; none of them, and why, if one is wrong."""
        data = b"".join(clip(content, RANGE.size * MAX_RANGES + 1))  # a guest may offer 4 GiB of it
        if self._read_only or not data or len(data) % RANGE.size or len(data) > RANGE.size * MAX_RANGES:
            return IOERR, []
        ranges = []
        for sector, count, flags in RANGE.iter_unpack(data):
            if flags & ~flags_allowed:
                return UNSUPP, []
            if count > longest or (sector + count) * SECTOR > self._size:
                return IOERR, []
            if count:
                ranges.append((sector * SECTOR, count * SECTOR, flags))
        return OK, ranges

    def _fallocate(self, mode: int, offset: int, size: int) -> bool:
        """Return False where the image's file system cannot do it.

        :raise OSError: it failed for another reason.
        """
        try:
            linux.fallocate(self._fd, mode | _KEEP_SIZE, offset, size)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                return False
            raise
        return True

    def _overwrite(self, offset: int, size: int) -> None:
        zeros = memoryview(bytes(min(size, _ZEROS)))
        end = offset + size
        while offset < end:
            offset += os.pwrite(self._fd, zeros[: end - offset], offset)


def _split(readable: Sequence[memoryview]) -> tuple[bytes, Sequence[memoryview]]:
    """Return the header, copied once, and what follows it, however the driver has cut them."""
    head = b""
    for view in readable:
        head += bytes(view[: HEADER.size - len(head)])
        if len(head) == HEADER.size:
            return head, skip(readable, HEADER.size)
    raise VirtqueueError(f"block request with a header of {len(head)} bytes")
