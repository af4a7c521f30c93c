"""The virtio-net device (virtio 1.2, section 5.1): moves Ethernet frames between the guest and a cable.

Queues: 0 is the guest's receive queue, 1 its transmit queue. No offload is on offer: neither side may leave a checksum
or the cutting of a large segment to the other. The MTU of 65520 saves as much as segmentation offload would, and the
network stack at the cable's other end takes whole packets with valid checksums.

What the driver does with the queues is Linux's drivers/net/virtio_net.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Protocol

from pykrun.buffers import scatter, skip
from pykrun.errors import VirtqueueError
from pykrun.virtio.device import Device
from pykrun.virtio.ring import Chain, Virtqueue

F_MTU = 1 << 3
F_MAC = 1 << 5
F_MRG_RXBUF = 1 << 15
F_STATUS = 1 << 16

MIN_FRAME, MAX_FRAME = 14, 65535
"""Bytes of a frame: an Ethernet header alone; and what a stream of frames to passt may carry."""

HEAD = 128
"""Bytes of a frame's start that are copied before anything looks at them: all headers down to the ports (Ethernet, IP
with its options, TCP or UDP). The guest may change its memory at any time."""

RECEIVE, TRANSMIT = 0, 1

_CONFIG = Struct("<6sHHH")  # struct virtio_net_config: mac, status, max_virtqueue_pairs, mtu
_LINK_UP = 1
_HEADER = Struct("<BBHHHHH")  # struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, _offset, buffers
_HEADER_SIZE = _HEADER.size
_MOST_BUFFERS = 64  # for one frame: Linux's smallest have 1,518 bytes
_HEADERS = [_HEADER.pack(0, 0, 0, 0, 0, 0, buffers) for buffers in range(_MOST_BUFFERS + 1)]


class Cable(Protocol):
    """What a network device is plugged into."""

    on_frame: Callable[[], None] | None
    """Set by the device; called when `frame` returns one again after it returned None."""

    on_room: Callable[[], None] | None
    """Set by the device; called when `ready` is true again after it was false."""

    @property
    def ready(self) -> bool:
        """Whether the next frame can be sent."""

    def send(self, head: bytes, rest: Sequence[memoryview], size: int) -> None:
        """Send a frame of `size` bytes, or drop it; only when `ready`.

        :param head: its first bytes, at least `HEAD` of them if it has so many.
        :param rest: all others. They are guest memory, valid during this call only.
        """

    def flush(self) -> None:
        """No further frame follows at once: let none wait for company."""

    def frame(self) -> memoryview | None:
        """Return the next frame for the guest, the same until `take`, None when there is none now."""

    def take(self) -> None:
        """The frame that `frame` returned is done with; its memory is reused."""


class NetDevice(Device):
    """A network card with one queue pair.

    :param mac: its address, six bytes.
    :param mtu: the largest packet that the guest may send; 0 leaves it to the guest.
    """

    device_id = 1
    queue_count = 2

    def __init__(self, cable: Cable, mac: bytes, mtu: int) -> None:
        self.features = F_MAC | F_MRG_RXBUF | F_STATUS | (F_MTU if mtu else 0)
        self._cable = cable
        self._config = _CONFIG.pack(mac, _LINK_UP, 1, mtu)
        self._queues: list[Virtqueue | None] = [None, None]
        self._mergeable = False
        self._held: list[Chain] = []  # receive buffers for the next frame, which needs more than there were
        self._room = 0  # bytes in them
        cable.on_frame = lambda: self._wake(RECEIVE)
        cable.on_room = lambda: self._wake(TRANSMIT)

    def config(self) -> bytes:
        """Return struct virtio_net_config."""
        return self._config

    def accepted(self, features: int) -> None:
        """Remember whether a frame may lie in several receive buffers."""
        self._mergeable = bool(features & F_MRG_RXBUF)

    def queue_started(self, queue: Virtqueue) -> None:
        """Remember the queue; what waits for it goes when it is served."""
        self._queues[queue.index] = queue

    def serve(self, queue: Virtqueue) -> None:
        """Move what can be moved on one queue."""
        if queue.index == TRANSMIT:
            self._transmit(queue)
        else:
            self._receive(queue)

    def queue_stopped(self, queue: Virtqueue) -> None:
        """Give back the buffers that wait for a frame; the queue's position counts only what was used."""
        if queue.index == RECEIVE:
            self._give_back(queue)
        self._queues[queue.index] = None

    def _wake(self, index: int) -> None:
        queue = self._queues[index]
        if queue is not None:
            queue.wake()

    def _transmit(self, queue: Virtqueue) -> None:
        """Send what the guest has written, straight from its memory, until the cable is full.

        The header asks for offloads, which nobody may: it is not even read.
        """
        cable = self._cable
        while cable.ready and (chain := queue.pop()) is not None:
            views = chain.readable
            size = sum(map(len, views)) - _HEADER_SIZE
            if MIN_FRAME <= size <= MAX_FRAME:
                head, rest = _split(views)
                cable.send(head, rest, size)
            queue.push(chain, 0)
        cable.flush()

    def _receive(self, queue: Virtqueue) -> None:
        """Write frames into the guest's buffers, until either is out.

        Buffers that do not suffice for the next frame stay out of the ring: a driver kicks for further ones only when
        all were taken.
        """
        cable, held, pop = self._cable, self._held, queue.pop
        most = min(queue.size, _MOST_BUFFERS) if self._mergeable else 1
        while (frame := cable.frame()) is not None:
            needed, room = _HEADER_SIZE + len(frame), self._room
            while room < needed and len(held) < most:
                chain = pop()
                if chain is None:
                    self._room = room
                    return
                views = chain.writable
                size = len(views[0]) if len(views) == 1 else sum(map(len, views))
                if size < _HEADER_SIZE:
                    raise VirtqueueError(f"receive buffer of {size} bytes")
                held.append(chain)
                room += size
            if room >= needed:
                _deliver(queue, held, frame)
                held.clear()
                self._room = 0
            else:  # so many buffers, and it still finds no room: it never will
                self._give_back(queue)
            cable.take()

    def _give_back(self, queue: Virtqueue) -> None:
        for chain in reversed(self._held):
            queue.unpop(chain)
        self._held.clear()
        self._room = 0


def _split(views: Sequence[memoryview]) -> tuple[bytes, Sequence[memoryview]]:
    """Return a copy of a frame's first bytes and the rest of it; `views` begin with the header that is left out."""
    first = views[0]
    if len(first) >= _HEADER_SIZE + HEAD or len(views) == 1:
        head = bytes(first[_HEADER_SIZE : _HEADER_SIZE + HEAD])
        if len(first) > _HEADER_SIZE + HEAD:
            return head, (first[_HEADER_SIZE + HEAD :], *views[1:])
        return head, views[1:]
    if len(first) >= _HEADER_SIZE and _HEADER_SIZE + HEAD - len(first) <= len(views[1]):  # a header and a body
        head = bytes(first[_HEADER_SIZE:]) + bytes(views[1][: _HEADER_SIZE + HEAD - len(first)])
    else:
        head = b"".join(bytes(view[: _HEADER_SIZE + HEAD]) for view in views[: _HEADER_SIZE + HEAD])
        head = head[_HEADER_SIZE : _HEADER_SIZE + HEAD]
    return head, skip(views, _HEADER_SIZE + len(head))


def _deliver(queue: Virtqueue, chains: Sequence[Chain], frame: memoryview) -> None:
    """Write a frame behind its header into the chains, which it needs all of, and give them to the driver."""
    header, size = _HEADERS[len(chains)], len(frame)
    views = chains[0].writable
    first = views[0]
    if len(first) < _HEADER_SIZE:  # nobody does that
        _deliver_slowly(queue, chains, header + bytes(frame))
        return
    first[:_HEADER_SIZE] = header
    done = min(len(first) - _HEADER_SIZE, size)
    first[_HEADER_SIZE : _HEADER_SIZE + done] = frame[:done]
    if done < size and len(views) > 1:
        done += scatter(frame[done:], views[1:])
    push = queue.push
    push(chains[0], _HEADER_SIZE + done)
    for chain in chains[1:]:
        views = chain.writable
        if len(views) == 1 and len(views[0]) <= size - done:  # as Linux has it, all but the last
            end = done + len(views[0])
            views[0][:] = frame[done:end]
        else:
            end = done + scatter(frame[done:], views)
        push(chain, end - done)
        done = end


def _deliver_slowly(queue: Virtqueue, chains: Sequence[Chain], content: bytes) -> None:
    done = 0
    for chain in chains:
        written = scatter(content[done:], chain.writable)
        queue.push(chain, written)
        done += written
