"""The split virtqueue (virtio 1.2, section 2.7), device side: the hot loop of every device.

This module trades objects for speed on purpose. Everything a guest does passes through `pop`, `push` and `notify`, and
their share of a request is to stay well below the file server's 2 us. What it does for that, with microseconds of CPU
per request from benchmarks/virtqueue.py on this project's 2-core machine:

- the rings are `memoryview` casts over the one mapping, so that each shared field is one index operation, which reads
  or writes it exactly once, in one machine instruction;
- an indirect table is copied in one step, which is also what makes it safe to look at, and the copy is the key of a
  cache of validated buffers. Equal bytes mean equal buffers, and Linux's allocator hands out the same few addresses
  again and again: nine of ten small requests of a booting guest are found. 0.6 with four buffers, 2.2 without;
- the shape that Linux writes (an indirect table in order, in the guest's largest region) is parsed by a short loop that
  only knows "yes"; whatever else comes is left to `walk`, which decides what is an error. 10 for 35 scattered buffers;
- the index is published, and the driver called, once per batch: one request alone costs 2.7, half of it the call.
"""

from __future__ import annotations

from collections.abc import Callable

from pykrun.errors import VirtqueueError
from pykrun.host.fence import STRONGLY_ORDERED, new_fence
from pykrun.virtio.memory import GuestMemory
from pykrun.virtio.walk import DESCRIPTOR, INDIRECT, NEXT, WRITE, ChainWalk, Views

MAX_SIZE = 32768
"""Largest queue size (virtio 1.2, 2.7)."""

BATCH = 64
"""Most chains between two notifications: bounds what a pass costs, and how long the first chain waits for the last."""

_NO_INTERRUPT = 1  # VIRTQ_AVAIL_F_NO_INTERRUPT
_CACHED_DESCRIPTORS = 8192  # bound of the cache: about 2 MB when nothing is adjacent

_descriptors = DESCRIPTOR.iter_unpack
_descriptor = DESCRIPTOR.unpack_from


class Chain:
    """One request of the driver: the buffers it wrote for the device, and those it wants written.

    Valid until it is pushed or the queue stops. The views are shared with other chains: slice them, never release them.
    """

    __slots__ = ("head", "live", "readable", "writable")

    def __init__(self, head: int) -> None:
        self.head = head
        self.live = False
        self.readable: Views = ()
        self.writable: Views = ()


class Virtqueue:
    """A running queue. The transport makes one when the driver starts it, and stops it before the memory goes.

    :param index: which queue of its device.
    :param size: descriptors, a power of two.
    :param memory: where the buffers are.
    :param table: the descriptor table, 16 bytes each.
    :param avail: the available ring, 6 + 2 * size bytes.
    :param used: the used ring, 6 + 8 * size bytes.
    :param position: the first available entry to take.
    :param event_idx: VIRTIO_F_EVENT_IDX was negotiated.
    :param indirect: VIRTIO_F_INDIRECT_DESC was negotiated.
    """

    __slots__ = (
        "_avail",
        "_avail_event_slot",
        "_batch",
        "_cache",
        "_cached",
        "_chains",
        "_event_idx",
        "_fence",
        "_first",
        "_high",
        "_indirect",
        "_last",
        "_low",
        "_mapping",
        "_mask",
        "_memory",
        "_origin",
        "_published",
        "_seen",
        "_stopped",
        "_table",
        "_table_limit",
        "_used",
        "_used_ring",
        "_used_words",
        "_view",
        "_words",
        "calls",
        "index",
        "position",
        "size",
        "tell",
        "wake",
    )  # with so many members, a dictionary makes each access take five times as long

    def __init__(
        self,
        index: int,
        size: int,
        memory: GuestMemory,
        table: memoryview,
        avail: memoryview,
        used: memoryview,
        *,
        position: int = 0,
        event_idx: bool = False,
        indirect: bool = False,
    ) -> None:
        if not 0 < size <= MAX_SIZE or size & (size - 1):
            raise VirtqueueError(f"queue size {size}")
        self.index = index
        self.size = size
        self.tell: Callable[[], object] | None = None
        """Tells the driver that there are used buffers; None: it polls. Set by the transport. OSError means that it has
        been told and has not looked yet, or is gone."""
        self.wake: Callable[[], None] = _nothing
        """Have the device serve this queue now: what a device calls when something other than a kick lets it go on."""
        self.calls = 0
        """How many times the driver was told."""
        self._memory = memory
        self._mask = size - 1
        self._batch = min(BATCH, size)
        self._table = table
        self._words = table.cast("Q")
        self._avail = avail.cast("H")  # flags, index, ring, used_event
        self._used_ring = used[4 : 4 + 8 * size].cast("Q")  # id, length
        self._used_words = used.cast("H")  # flags, index, ..., avail_event
        self._avail_event_slot = 2 + 4 * size
        self.position = position & 0xFFFF
        """The next available entry to take: where the queue goes on when it is started again. Only read it."""
        self._seen = self.position
        self._used = self._used_words[1]
        self._published = self._used
        self._event_idx = event_idx
        self._indirect = indirect
        self._table_limit = 16 * size  # a longer table cannot hold a valid chain; it is not even copied
        self._fence = new_fence()
        self._stopped = False
        self._chains: list[Chain | None] = [None] * size
        self._cache: dict[bytes, tuple[Views, Views]] = {}
        self._cached = 0
        # The largest region, by positions in its mapping.
        largest = memory.regions[0]
        self._mapping = largest.mapping
        self._origin = largest.start - largest.offset
        self._low = largest.offset
        self._high = largest.end - self._origin
        self._first, self._last = largest.start, largest.end
        self._view = largest.view

    def refresh(self) -> bool:
        """Look what the driver has made available; return whether there is something to pop.

        `pop` never looks by itself: so a pass takes what was there when it began, at most `BATCH` chains, and a driver
        that adds as fast as the device takes cannot hold the loop.

        :raise VirtqueueError: the driver's index is ahead by more than the ring.
        """
        seen = self._avail[1]
        waiting = (seen - self.position) & 0xFFFF
        if waiting > self._batch:
            if waiting > self.size:
                raise VirtqueueError(f"available index {seen} is more than {self.size} ahead of {self.position}")
            seen = self.position + self._batch & 0xFFFF
        self._seen = seen
        if not STRONGLY_ORDERED:
            self._fence()
        return waiting != 0

    def pop(self) -> Chain | None:
        """Take the next chain, None when there is none.

        :raise VirtqueueError: the driver broke a rule; the queue can only be stopped.
        """
        position = self.position
        if position == self._seen:
            return None
        head = self._avail[2 + (position & self._mask)]
        if head >= self.size:
            raise VirtqueueError(f"descriptor index {head} is outside a table of {self.size}")
        chain = self._chains[head]
        if chain is None:
            chain = self._chains[head] = Chain(head)
        elif chain.live:
            raise VirtqueueError(f"descriptor {head} was made available twice")
        word = self._words[2 * head + 1]  # length, flags, next
        length = word & 0xFFFFFFFF
        flags = word >> 32 & 0xFFFF
        low = self._words[2 * head] - self._origin
        high = low + length
        if self._low > low or high > self._high:
            flags = NEXT  # to be walked
        if flags == INDIRECT and self._indirect and length <= self._table_limit:
            table = self._mapping[low:high]
            chain.readable, chain.writable = self._cache.get(table) or self._parse(table)
        elif flags == WRITE and length:
            chain.readable, chain.writable = (), (self._view[low - self._low : high - self._low],)
        elif flags == 0 and length:
            chain.readable, chain.writable = (self._view[low - self._low : high - self._low],), ()
        else:
            walk = ChainWalk(self._memory, self.size)
            chain.readable, chain.writable = walk.direct(self._table, head, indirect=self._indirect)
        chain.live = True
        self.position = position + 1 & 0xFFFF
        return chain

    def answer(self, handle: Callable[[Views, Views], int]) -> None:
        """Take every chain, have it handled, and give it back: for devices that finish each at once.

        What `pop` and `push` do for chains that stay out is left out, and with it a third of their time: a queue is
        served in one way or the other.

        :param handle: gets what is readable and what is writable, and returns the bytes written. It never raises.
        :raise VirtqueueError: as `pop`.
        """
        avail, table, used_ring, mask, size = self._avail, self._table, self._used_ring, self._mask, self.size
        mapping, cached, origin, low, high = self._mapping, self._cache.get, self._origin, self._low, self._high
        longest = self._table_limit if self._indirect else 0
        position = self.position
        while position != self._seen:
            head = avail[2 + (position & mask)]
            if head >= size:
                raise VirtqueueError(f"descriptor index {head} is outside a table of {size}")
            address, length, flags, _ = _descriptor(table, 16 * head)  # copied: the driver may change it at any time
            start = address - origin
            end = start + length
            if flags == INDIRECT and length <= longest and low <= start and end <= high:
                content = mapping[start:end]
                readable, writable = cached(content) or self._parse(content)
            else:
                readable, writable = ChainWalk(self._memory, size).direct(table, head, indirect=self._indirect)
            self.position = position = position + 1 & 0xFFFF
            length = handle(readable, writable)
            if self._stopped:
                return
            used = self._used
            used_ring[used & mask] = head | length << 32
            self._used = used + 1 & 0xFFFF

    def unpop(self, chain: Chain) -> None:
        """Give back the chain that was popped last, as if it never was."""
        chain.live = False
        chain.readable = chain.writable = ()
        self.position = self.position - 1 & 0xFFFF

    def push(self, chain: Chain, length: int) -> None:
        """Give a chain back to the driver, in any order; it learns of it by the next `notify`.

        :param length: bytes written into the writable buffers.
        """
        if not chain.live:  # the queue was stopped meanwhile
            return
        chain.live = False
        self._used_ring[self._used & self._mask] = chain.head | length << 32
        self._used = self._used + 1 & 0xFFFF

    def notify(self) -> bool:
        """Publish what was pushed and tell the driver if it wants to be told; return whether there is more to pop.

        When everything was popped, the driver is asked to kick for the next chain, and what it added before it saw that
        is found here: after False, a kick will come.

        :raise VirtqueueError: see `refresh`.
        """
        used, published, avail, position = self._used, self._published, self._avail, self.position
        event_idx = self._event_idx
        if event_idx and position == self._seen:
            self._used_words[self._avail_event_slot] = position
        if used != published:
            if not STRONGLY_ORDERED:
                self._fence()
            self._used_words[1] = self._published = used
            self._fence()
            if event_idx:
                wanted = (used - avail[2 + self.size] - 1) & 0xFFFF < (used - published) & 0xFFFF
            else:
                wanted = not avail[0] & _NO_INTERRUPT
            if wanted:
                self._call()
        elif event_idx:
            self._fence()
        return avail[1] != position and self.refresh()

    def forget(self) -> None:
        """Empty the cache of validated tables; only costs time."""
        self._cache.clear()
        self._cached = 0

    def stop(self) -> None:
        """Let go of the ring and of every buffer, also of chains that were never pushed. Only once."""
        self._stopped = True
        for chain in self._chains:
            if chain is not None:
                if chain.live:
                    _release((chain.readable, chain.writable))
                    chain.live = False
                chain.readable = chain.writable = ()
        for views in self._cache.values():
            _release(views)
        self._cache.clear()
        self._seen = self.position
        for view in (self._words, self._avail, self._used_ring, self._used_words, self._table):
            view.release()

    def call(self) -> None:
        """Tell the driver to look at the used ring, whether it wants to know or not."""
        if self._published:
            self._call()

    def _call(self) -> None:
        if self.tell is not None:
            self.calls += 1
            try:
                self.tell()
            except OSError:
                pass

    def _parse(self, table: bytes) -> tuple[Views, Views]:
        """Validate a copied indirect table, in the shape that is common; leave all others to the careful walk."""
        views = self._parse_ordered(table)
        if views is None:
            if not table or len(table) % 16:
                raise VirtqueueError(f"indirect table of {len(table)} bytes")
            return ChainWalk(self._memory, self.size).indirect(table)
        count = len(table) // 16
        self._cached += count
        if self._cached > _CACHED_DESCRIPTORS:
            self._cache.clear()
            self._cached = count
        self._cache[table] = views
        return views

    def _parse_ordered(self, table: bytes) -> tuple[Views, Views] | None:
        """Parse a table in Linux's shape; None: it has another.

        (Comparing whole columns of the table at once, as tuples, takes twice as long for four descriptors.)
        """
        if not table or len(table) % 16:
            return None
        view, first, last = self._view, self._first, self._last
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        views = readable
        start = end = first  # the run of neighbours that is being joined
        index = total = writing = flags = 0
        for address, length, flags, following in _descriptors(table):
            if flags & NEXT:
                index += 1
                if following != index:
                    return None
            if length == 0 or flags > 3:
                return None
            total += length
            if flags & WRITE != writing:
                if writing:
                    return None
                if start != end:
                    readable.append(view[start - first : end - first])
                writing, views = WRITE, writable
            elif address == end:
                end += length
                if end > last:
                    return None
                continue
            elif start != end:
                views.append(view[start - first : end - first])
            start, end = address, address + length
            if start < first or end > last:
                return None
        if flags & NEXT or 16 * (index + 1) != len(table) or total >> 32:
            return None
        views.append(view[start - first : end - first])
        return tuple(readable), tuple(writable)


def _nothing() -> None:
    pass


def _release(views: tuple[Views, Views]) -> None:
    for group in views:
        for view in group:
            view.release()
