"""The careful walk of a descriptor chain: decides whether a chain is right, and says what is wrong.

The ring's own loop knows only the shape that Linux writes, and asks here about everything else (see `ring`).
"""

from __future__ import annotations

from struct import Struct

from pykrun.errors import VirtqueueError
from pykrun.virtio.memory import GuestMemory, Region

DESCRIPTOR = Struct("<QIHH")
"""struct virtq_desc: address, length, flags, next (virtio 1.2, 2.7.5)."""

NEXT = 1
WRITE = 2
INDIRECT = 4

_MAX_TOTAL = 2**32 - 1  # the length in a used element has 32 bits

Views = tuple[memoryview, ...]


class ChainWalk:
    """Collects one chain's buffers: validated, split by direction, neighbours joined."""

    def __init__(self, memory: GuestMemory, queue_size: int) -> None:
        self._memory = memory
        self._queue_size = queue_size
        self._readable: list[memoryview] = []
        self._writable: list[memoryview] = []
        self._count = 0
        self._total = 0
        self._writing = False
        # The run of adjacent buffers that is being joined.
        self._region: Region | None = None
        self._start = 0
        self._end = 0

    def direct(self, table: memoryview, head: int, *, indirect: bool) -> tuple[Views, Views]:
        """Walk a chain from descriptor `head` of the ring's own table.

        Each descriptor is copied before it is looked at: the guest may change it at any time.

        :param indirect: whether VIRTIO_F_INDIRECT_DESC was negotiated.
        :raise VirtqueueError: the chain breaks a rule.
        """
        index = head
        while True:
            if index >= self._queue_size:
                raise VirtqueueError(f"descriptor index {index} is outside a table of {self._queue_size}")
            address, length, flags, following = DESCRIPTOR.unpack(bytes(table[16 * index : 16 * index + 16]))
            if flags & INDIRECT:
                if not indirect:
                    raise VirtqueueError("indirect descriptor, but the feature was not negotiated")
                if flags & NEXT:
                    raise VirtqueueError("descriptor is indirect and has a next one")
                if length == 0 or length % 16 or length > 16 * self._queue_size:
                    raise VirtqueueError(f"indirect table of {length} bytes")
                return self.indirect(bytes(self._memory.slice(address, length)))
            self._add(address, length, flags)
            if not flags & NEXT:
                return self._finish()
            index = following

    def indirect(self, table: bytes) -> tuple[Views, Views]:
        """Go on through a copy of an indirect table, from its first descriptor.

        :raise VirtqueueError: the chain breaks a rule.
        """
        count = len(table) // 16
        index = 0
        while True:
            if index >= count:
                raise VirtqueueError(f"descriptor index {index} is outside an indirect table of {count}")
            address, length, flags, following = DESCRIPTOR.unpack_from(table, 16 * index)
            if flags & INDIRECT:
                raise VirtqueueError("indirect descriptor inside an indirect table")
            self._add(address, length, flags)
            if not flags & NEXT:
                return self._finish()
            index = following

    def _add(self, address: int, length: int, flags: int) -> None:
        self._count += 1
        if self._count > self._queue_size:
            raise VirtqueueError(f"descriptor chain is longer than the queue ({self._queue_size}), or a loop")
        if length == 0:
            raise VirtqueueError("descriptor of zero length")
        self._total += length
        if self._total > _MAX_TOTAL:
            raise VirtqueueError("descriptor chain describes 4 GiB or more")
        writing = bool(flags & WRITE)
        if self._writing and not writing:
            raise VirtqueueError("readable descriptor after a writable one")
        region = self._memory.find(address, length)
        if region is self._region and address == self._end and writing == self._writing:
            self._end += length
            return
        self._flush()
        self._region, self._start, self._end, self._writing = region, address, address + length, writing

    def _flush(self) -> None:
        if self._region is not None:
            view = self._region.slice(self._start, self._end - self._start)
            (self._writable if self._writing else self._readable).append(view)

    def _finish(self) -> tuple[Views, Views]:
        self._flush()
        return tuple(self._readable), tuple(self._writable)
