"""The virtio-vsock device (virtio 1.2, section 5.10): streams between ports of the guest and whoever the host connects.

Queues: 0 is the guest's receive queue, 1 its transmit queue, 2 is for events, of which there are none here. What the
driver does is Linux's net/vmw_vsock/virtio_transport.c and virtio_transport_common.c.

What a guest can make the host keep is bounded: `MAX_CONNECTIONS`, a `WINDOW` of bytes for each that its peer has not
taken, `_MAX_REFUSALS` answers that it does not fetch; then its transmit queue waits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Protocol

from pykrun.buffers import clip, scatter, skip
from pykrun.errors import VirtqueueError
from pykrun.virtio.device import Device
from pykrun.virtio.ring import Chain, Virtqueue

HOST_CID = 2
"""The host's address (VMADDR_CID_HOST)."""

HEADER = Struct("<QQIIIHHIII")
"""struct virtio_vsock_hdr: src_cid, dst_cid, src_port, dst_port, len, type, op, flags, buf_alloc, fwd_cnt."""

REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST = range(1, 8)
STREAM = 1
"""The one type of socket that there is: the feature bit of the other, SEQPACKET, is not on offer."""

SHUT_RECEIVE, SHUT_SEND, SHUT_BOTH = 1, 2, 3
"""Flags of SHUTDOWN: its sender receives, sends no more."""

RECEIVE, TRANSMIT = 0, 1

WINDOW = 256 << 10
"""Bytes that the guest may send ahead of what its peer takes."""
MAX_CONNECTIONS = 1024

_FIRST_PORT = 1 << 30  # of ours, for connections that the host opens; guests name none of these
_MAX_REFUSALS = 1024
_CONFIG = Struct("<Q")
_BATCH = 16  # buffers filled by one read; Linux's have 4 KiB each
_SIZE = HEADER.size
_MASK = 0xFFFFFFFF


class Peer(Protocol):
    """The host's end of a connection: a byte stream that never blocks."""

    on_readable: Callable[[], None] | None
    """Set by the device; called when there may be bytes, or the end, after `receive_into` returned None."""
    on_writable: Callable[[], None] | None
    """Set by the device; called when bytes are taken again after `send` took fewer than offered."""
    on_gone: Callable[[], None] | None
    """Set by the device; called when `gone` has become true."""

    @property
    def gone(self) -> bool:
        """Whether the other side neither reads nor writes any more. What it wrote may still be there."""

    def send(self, buffers: Sequence[memoryview]) -> int:
        """Take bytes; return how many. They are guest memory, valid during this call only.

        :raise OSError: nobody reads any more.
        """

    def receive_into(self, buffers: Sequence[memoryview]) -> int | None:
        """Fill the buffers from the start; return the number of bytes, 0 at the end, None when there are none now.

        :raise OSError: the stream is broken.
        """

    def shut(self, *, receive: bool, send: bool) -> None:
        """The guest receives, or sends, no more."""

    def close(self) -> None:
        """The connection is over."""


class _Connection:
    """One stream: what each side has told, what waits."""

    __slots__ = (
        "allowed",
        "answered",
        "ended",
        "guest_port",
        "host_port",
        "open",
        "owed",
        "peer",
        "received",
        "sent",
        "shut",
        "taken",
        "told",
        "unsent",
    )

    def __init__(self, guest_port: int, host_port: int, peer: Peer | None) -> None:
        self.guest_port = guest_port
        self.host_port = host_port
        self.peer = peer
        self.open = False
        self.owed: list[tuple[int, int]] = []  # operation and flags, for the guest
        self.ended = False  # the guest was told that no more will come
        self.shut = 0  # what the guest said by SHUTDOWN
        self.unsent = bytearray()  # from the guest; its peer had no room
        self.taken = 0  # bytes that the peer took, and what of it the guest knows
        self.told = 0
        self.sent = 0  # bytes that the guest got, how many of them it has used, and its room
        self.received = 0
        self.allowed = 0

    @property
    def credit(self) -> int:
        """Bytes that the guest has room for. A lie stops only its own stream, or fills only its own buffers."""
        return max(0, self.allowed - (self.sent - self.received & _MASK))


class VsockDevice(Device):
    """A guest's sockets.

    :param cid: the guest's address, 3 or more.
    :param connect: opens the host's end for a port that the guest connects to; None refuses.
    """

    device_id = 19
    queue_count = 3

    def __init__(self, cid: int, connect: Callable[[int], Peer | None]) -> None:
        self._cid = cid
        self._connect = connect
        self._queues: dict[int, Virtqueue] = {}
        self._connections: dict[tuple[int, int], _Connection] = {}
        self._lingering: set[_Connection] = set()  # the guest has closed; their peers have not taken everything
        self._ready: OrderedDict[_Connection, None] = OrderedDict()  # may have bytes for the guest
        self._owing: OrderedDict[_Connection, None] = OrderedDict()  # in these two are only connections that are known
        self._refusals: deque[bytes] = deque()
        self._next_port = _FIRST_PORT
        self.dropped = 0
        """How many packets came that were from or for somebody else."""

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections) + len(self._lingering)

    def config(self) -> bytes:
        """Return struct virtio_vsock_config."""
        return _CONFIG.pack(self._cid)

    def open(self, port: int, peer: Peer) -> bool:
        """Connect to a port of the guest for a peer; it is closed if the guest refuses. False: there are too many."""
        if self.connections >= MAX_CONNECTIONS:
            return False
        while True:
            self._next_port = _FIRST_PORT + (self._next_port + 1 - _FIRST_PORT) % _FIRST_PORT
            if (port, self._next_port) not in self._connections:
                break
        connection = self._add(port, self._next_port, peer)
        self._owe(connection, REQUEST)
        self._wake(RECEIVE)
        return True

    # Hooks of Device

    def queue_started(self, queue: Virtqueue) -> None:
        """Remember the queue; what waits for it goes when it is served."""
        self._queues[queue.index] = queue

    def serve(self, queue: Virtqueue) -> None:
        """Move what can be moved on one queue."""
        if queue.index == TRANSMIT:
            self._hear(queue)
        elif queue.index == RECEIVE:
            self._speak(queue)

    def queue_stopped(self, queue: Virtqueue) -> None:
        """Forget the queue."""
        self._queues.pop(queue.index, None)

    def reset(self) -> None:
        """The driver is gone, and all its sockets with it."""
        for connection in (*self._connections.values(), *self._lingering):
            if connection.peer is not None:
                connection.peer.close()
        for kept in (self._connections, self._lingering, self._ready, self._owing, self._refusals):
            kept.clear()

    def _wake(self, index: int) -> None:
        queue = self._queues.get(index)
        if queue is not None:
            queue.wake()

    # What the guest says

    def _hear(self, queue: Virtqueue) -> None:
        """Take the guest's packets, as long as it takes our refusals."""
        while len(self._refusals) < _MAX_REFUSALS and (chain := queue.pop()) is not None:
            views = chain.readable
            head = bytes(views[0][:_SIZE]) if views else b""  # one copy before anything is looked at
            if len(head) < _SIZE:  # nobody does that
                head = b"".join(bytes(view[:_SIZE]) for view in views[:_SIZE])[:_SIZE]
            size = sum(map(len, views)) - _SIZE
            if size < 0:
                raise VirtqueueError(f"vsock packet of {size + _SIZE} bytes")
            source, target, guest_port, host_port, length, kind, operation, flags, room, used = HEADER.unpack(head)
            if length > size:
                raise VirtqueueError(f"vsock packet says {length} bytes and has {size}")
            if source != self._cid or target != HOST_CID:
                self.dropped += 1
            elif kind != STREAM:
                if operation != RST:
                    self._refuse(guest_port, host_port, kind)
            else:
                content = clip(skip(views, _SIZE), length) if length else ()
                self._packet(guest_port, host_port, operation, flags, (room, used), content)
            queue.push(chain, 0)
        if self._refusals or self._owing or self._ready:
            self._wake(RECEIVE)

    def _packet(
        self,
        guest_port: int,
        host_port: int,
        operation: int,
        flags: int,
        credit: tuple[int, int],
        content: Sequence[memoryview],
    ) -> None:
        connection = self._connections.get((guest_port, host_port))
        if connection is None:
            if operation == REQUEST:
                self._requested(guest_port, host_port, credit)
            elif operation != RST:
                self._refuse(guest_port, host_port)
            return
        connection.allowed, connection.received = credit
        if operation == RW and connection.open and not connection.shut & SHUT_SEND:
            self._take(connection, content)
        elif operation == SHUTDOWN and connection.open:
            self._shut(connection, flags & SHUT_BOTH)
        elif operation == RST:
            self._drop(connection)
        elif operation == RESPONSE and not connection.open:
            connection.open = True
        elif operation == CREDIT_REQUEST:
            self._owe(connection, CREDIT_UPDATE)
        elif operation != CREDIT_UPDATE or not connection.open:
            self._abort(connection)
            return
        self._offer(connection)

    def _requested(self, guest_port: int, host_port: int, credit: tuple[int, int]) -> None:
        peer = self._connect(host_port) if self.connections < MAX_CONNECTIONS else None
        if peer is None:
            self._refuse(guest_port, host_port)
            return
        connection = self._add(guest_port, host_port, peer)
        connection.open = True
        connection.allowed, connection.received = credit
        self._owe(connection, RESPONSE)
        self._offer(connection)

    def _take(self, connection: _Connection, content: Sequence[memoryview]) -> None:
        """Hand on what came, straight from the guest's memory, and keep what the peer has no room for."""
        size = sum(map(len, content))
        peer = connection.peer
        if peer is None or len(connection.unsent) + size > WINDOW:
            self._abort(connection)
            return
        count = 0
        if not connection.unsent and size:
            try:
                count = peer.send(content)
            except OSError:
                self._abort(connection)
                return
        if count < size:
            for view in skip(content, count):
                connection.unsent += view
        self._taken(connection, count)

    def _taken(self, connection: _Connection, count: int) -> None:
        connection.taken = connection.taken + count & _MASK
        if connection.taken - connection.told & _MASK >= WINDOW // 4:
            self._owe(connection, CREDIT_UPDATE)

    def _shut(self, connection: _Connection, flags: int) -> None:
        connection.shut |= flags
        peer = connection.peer
        if connection.shut == SHUT_BOTH:
            self._forget(connection)
            self._refuse(connection.guest_port, connection.host_port)  # what the guest waits for to let go
            if connection.unsent and peer is not None:
                peer.shut(receive=True, send=False)
                self._lingering.add(connection)
            elif peer is not None:
                peer.close()
        elif peer is not None:
            peer.shut(receive=bool(flags & SHUT_RECEIVE), send=bool(flags & SHUT_SEND and not connection.unsent))

    # What the host's end has to say

    def _writable(self, connection: _Connection) -> None:
        unsent, peer = connection.unsent, connection.peer
        if not unsent or peer is None:
            return
        try:
            with memoryview(unsent) as view:
                count = peer.send([view])
        except OSError:
            self._abort(connection)
            return
        del unsent[:count]
        if connection in self._lingering:
            if not unsent:
                self._lingering.discard(connection)
                peer.close()
            return
        if not unsent and connection.shut & SHUT_SEND:
            peer.shut(receive=False, send=True)
        self._taken(connection, count)
        if connection.owed:
            self._wake(RECEIVE)

    def _readable(self, connection: _Connection) -> None:
        self._offer(connection)
        if connection in self._ready:
            self._wake(RECEIVE)

    def _gone(self, connection: _Connection) -> None:
        """Nobody is there any more. What it has sent is still to be read; what the guest has sent is lost."""
        if connection.unsent:
            self._abort(connection)
            self._wake(RECEIVE)
        elif connection.ended and connection.open:
            self._owe(connection, SHUTDOWN, SHUT_BOTH)
            self._let_go(connection)
            self._wake(RECEIVE)

    def _let_go(self, connection: _Connection) -> None:
        """Close the peer; the connection stays until the guest has closed it too."""
        peer, connection.peer = connection.peer, None
        if peer is not None:
            peer.close()

    # Connections

    def _add(self, guest_port: int, host_port: int, peer: Peer) -> _Connection:
        connection = self._connections[guest_port, host_port] = _Connection(guest_port, host_port, peer)
        peer.on_readable = lambda: self._readable(connection)
        peer.on_writable = lambda: self._writable(connection)
        peer.on_gone = lambda: self._gone(connection)
        return connection

    def _forget(self, connection: _Connection) -> None:
        self._connections.pop((connection.guest_port, connection.host_port), None)
        connection.open = False
        connection.owed.clear()
        self._owing.pop(connection, None)
        self._ready.pop(connection, None)

    def _drop(self, connection: _Connection) -> None:
        self._lingering.discard(connection)
        self._forget(connection)
        connection.unsent.clear()
        self._let_go(connection)

    def _abort(self, connection: _Connection) -> None:
        """End it on both sides."""
        is_known = connection not in self._lingering
        self._drop(connection)
        if is_known:
            self._refuse(connection.guest_port, connection.host_port)

    def _refuse(self, guest_port: int, host_port: int, kind: int = STREAM) -> None:
        self._refusals.append(
            HEADER.pack(HOST_CID, self._cid, host_port, guest_port, 0, kind, RST, 0, 0, 0),
        )

    def _owe(self, connection: _Connection, operation: int, flags: int = 0) -> None:
        if not connection.owed:
            self._owing[connection] = None
        elif operation == CREDIT_UPDATE:
            return  # whatever goes says the same
        connection.owed.append((operation, flags))

    def _offer(self, connection: _Connection) -> None:
        """Have the connection asked for bytes, if it may have some and the guest has room."""
        may_speak = connection.open and not connection.ended and not connection.shut & SHUT_RECEIVE
        if may_speak and connection.peer is not None and connection.credit:
            self._ready[connection] = None

    # What the guest is told

    def _speak(self, queue: Virtqueue) -> None:
        """Fill the guest's buffers: refusals, what connections owe, bytes in turns."""
        was_full = len(self._refusals) >= _MAX_REFUSALS
        while self._refusals and (chain := queue.pop()) is not None:
            _write(queue, chain, self._refusals.popleft())
        if was_full and len(self._refusals) < _MAX_REFUSALS:
            self._wake(TRANSMIT)
        if self._refusals:
            return
        while self._owing:
            connection = next(iter(self._owing))
            while connection.owed and (chain := queue.pop()) is not None:
                operation, flags = connection.owed.pop(0)
                _write(queue, chain, self._header(connection, operation, flags))
            if connection.owed:
                return
            del self._owing[connection]
        while self._ready and self._send(queue, next(iter(self._ready))):
            pass

    def _header(self, connection: _Connection, operation: int, flags: int = 0, size: int = 0) -> bytes:
        connection.told = connection.taken
        ports = connection.host_port, connection.guest_port
        return HEADER.pack(HOST_CID, self._cid, *ports, size, STREAM, operation, flags, WINDOW, connection.taken)

    def _send(self, queue: Virtqueue, connection: _Connection) -> bool:
        """Give the guest some bytes of the first connection in turn; False when it has no buffers."""
        peer, credit = connection.peer, connection.credit
        if peer is None or not connection.open or connection.ended or connection.shut & SHUT_RECEIVE or not credit:
            del self._ready[connection]
            return True
        chains: list[Chain] = []
        rooms: list[list[memoryview]] = []
        room = 0
        while room < credit and len(chains) < _BATCH and (chain := queue.pop()) is not None:
            rest = skip(chain.writable, _SIZE)
            size = sum(map(len, rest))
            if not size:
                raise VirtqueueError(f"receive buffer of {sum(map(len, chain.writable))} bytes")
            chains.append(chain)
            rooms.append(clip(rest, credit - room) if size > credit - room else rest)
            room += size
        if not chains:
            return False
        self._ready.move_to_end(connection)  # the next one's turn
        try:
            count = peer.receive_into([view for rest in rooms for view in rest])
        except OSError:
            count = -1
        sent = 0
        for chain, rest in zip(chains, rooms, strict=True):
            if count is None or sent >= count:
                break
            size = min(sum(map(len, rest)), count - sent)
            scatter(self._header(connection, RW, 0, size), chain.writable)
            queue.push(chain, _SIZE + size)
            sent += size
        for chain in reversed(chains):
            if chain.live:
                queue.unpop(chain)
        connection.sent = connection.sent + sent & _MASK
        if not count or count < 0:  # only then it will say when there is more
            self._ready.pop(connection, None)
        if count is not None and count <= 0:
            self._ended(connection, broken=count < 0)
        return True

    def _ended(self, connection: _Connection, *, broken: bool) -> None:
        """The peer sends no more, and perhaps does nothing at all."""
        if broken:
            self._abort(connection)
        else:
            connection.ended = True
            self._owe(connection, SHUTDOWN, SHUT_SEND)
            if connection.peer is not None and connection.peer.gone:
                self._gone(connection)
        self._wake(RECEIVE)


def _write(queue: Virtqueue, chain: Chain, packet: bytes) -> None:
    written = scatter(packet, chain.writable)
    if written < len(packet):
        raise VirtqueueError(f"receive buffer of {written} bytes")
    queue.push(chain, written)
