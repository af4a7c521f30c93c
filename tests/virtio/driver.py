"""The driver's side of a split virtqueue, built by hand in a memfd: polite by default, hostile on request."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from struct import Struct

from pykrun.virtio import Chain, GuestMemory, Region, Virtqueue

NEXT, WRITE, INDIRECT = 1, 2, 4
DESCRIPTOR = Struct("<QIHH")
U16 = Struct("<H")
USED = Struct("<II")

Buffer = tuple[int, int, bool]
"""Guest address, length, whether the device writes it."""

Sizes = tuple[list[int], list[int]]
"""Of a chain's readable buffers, and of its writable ones."""


class Driver:
    """A guest's memory with one ring in it.

    :param size: descriptors of the ring.
    :param memory: bytes of guest memory.
    :param start: guest address of its first byte.
    """

    def __init__(self, size: int = 256, memory: int = 1 << 20, start: int = 0) -> None:
        self.size = size
        self.start = start
        self.memory_size = memory
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, memory)
        self.bytes = mmap.mmap(self.fd, memory)
        self.table = 0
        self.avail = 16 * size
        self.used = self.avail + 6 + 2 * size + 63 & ~63
        self.free = self.used + 6 + 8 * size + 4095 & ~4095
        """Where the room for buffers begins."""
        self.index = 0
        self._seen = 0
        self._slot = 0
        self._memories: list[GuestMemory] = []

    def close(self) -> None:
        for memory in self._memories:
            memory.close()
        self.bytes.close()
        os.close(self.fd)

    def guest_memory(self) -> GuestMemory:
        """A mapping of our memory as the device has it."""
        memory = GuestMemory([Region(self.start, self.memory_size, mmap.mmap(self.fd, self.memory_size))])
        self._memories.append(memory)
        return memory

    def queue(
        self, *, event_idx: bool = False, indirect: bool = True, position: int = 0, memory: GuestMemory | None = None
    ) -> Virtqueue:
        """The device's queue over this ring."""
        memory = memory or self.guest_memory()
        return Virtqueue(
            0,
            self.size,
            memory,
            memory.slice(self.start + self.table, 16 * self.size),
            memory.slice(self.start + self.avail, 6 + 2 * self.size),
            memory.slice(self.start + self.used, 6 + 8 * self.size),
            position=position,
            event_idx=event_idx,
            indirect=indirect,
        )

    def allocate(self, size: int, align: int = 16) -> int:
        """The guest address of some unused bytes, with a gap before them so that neighbours stay apart."""
        place = self.free + align & ~(align - 1)
        self.free = place + size
        assert self.free <= self.memory_size
        return self.start + place

    def write(self, address: int, content: bytes) -> None:
        self.bytes[address - self.start : address - self.start + len(content)] = content

    def read(self, address: int, length: int) -> bytes:
        return self.bytes[address - self.start : address - self.start + length]

    def place(self, content: bytes) -> Buffer:
        """A readable buffer with that content."""
        address = self.allocate(len(content))
        self.write(address, content)
        return address, len(content), False

    def room(self, size: int) -> Buffer:
        """A writable buffer."""
        return self.allocate(size), size, True

    def describe(self, index: int, address: int, length: int, flags: int, following: int = 0) -> None:
        """Write one descriptor of the ring's own table."""
        DESCRIPTOR.pack_into(self.bytes, self.table + 16 * index, address, length, flags, following)

    def direct(self, buffers: Sequence[Buffer], head: int = 0) -> int:
        """Write a chain into the ring's own table, from descriptor `head` on."""
        for number, (address, length, writable) in enumerate(buffers):
            last = number + 1 == len(buffers)
            flags = (WRITE if writable else 0) | (0 if last else NEXT)
            self.describe(head + number, address, length, flags, 0 if last else head + number + 1)
        return head

    def indirect(self, buffers: Sequence[Buffer], head: int = 0) -> int:
        """Write a chain as Linux does: one indirect table, in order."""
        table = b"".join(
            DESCRIPTOR.pack(
                address,
                length,
                (WRITE if writable else 0) | (0 if number + 1 == len(buffers) else NEXT),
                number + 1,
            )
            for number, (address, length, writable) in enumerate(buffers)
        )
        return self.indirect_table(table, head)

    def indirect_table(self, table: bytes, head: int = 0, flags: int = INDIRECT) -> int:
        """Write any bytes as an indirect table."""
        address, length, _ = self.place(table) if table else (self.allocate(16), 0, False)
        self.describe(head, address, length, flags)
        return head

    def offer(self, *heads: int, publish: bool = True) -> None:
        """Make chains available."""
        for head in heads:
            U16.pack_into(self.bytes, self.avail + 4 + 2 * (self.index % self.size), head)
            self.index = self.index + 1 & 0xFFFF
        if publish:
            self.set_avail_index(self.index)

    def set_avail_index(self, index: int) -> None:
        U16.pack_into(self.bytes, self.avail + 2, index & 0xFFFF)

    def set_avail_flags(self, flags: int) -> None:
        U16.pack_into(self.bytes, self.avail, flags)

    def set_used_event(self, index: int) -> None:
        U16.pack_into(self.bytes, self.avail + 4 + 2 * self.size, index & 0xFFFF)

    @property
    def avail_event(self) -> int:
        value: int = U16.unpack_from(self.bytes, self.used + 4 + 8 * self.size)[0]
        return value

    @property
    def used_index(self) -> int:
        value: int = U16.unpack_from(self.bytes, self.used + 2)[0]
        return value

    def finished(self) -> list[tuple[int, int]]:
        """(head, length) of the chains that have come back since the last call."""
        found = []
        while self._seen != self.used_index:
            found.append(USED.unpack_from(self.bytes, self.used + 4 + 8 * (self._seen % self.size)))
            self._seen = self._seen + 1 & 0xFFFF
        return found


def take(queue: Virtqueue) -> Chain | None:
    queue.refresh()
    return queue.pop()


def take_by_answer(queue: Virtqueue) -> Sizes | None:
    """What `answer` hands to its handler: the sizes of one chain's buffers, None when there was no chain."""
    seen: list[Sizes] = []

    def handle(readable: Sequence[memoryview], writable: Sequence[memoryview]) -> int:
        seen.append(([len(view) for view in readable], [len(view) for view in writable]))
        return 0

    queue.refresh()
    queue.answer(handle)
    assert len(seen) < 2
    return seen[0] if seen else None


def sizes(chain: Chain) -> Sizes:
    return [len(view) for view in chain.readable], [len(view) for view in chain.writable]


def only(queue: Virtqueue) -> Chain:
    chain = take(queue)
    assert chain is not None
    return chain
