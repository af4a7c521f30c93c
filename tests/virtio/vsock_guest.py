"""A guest's side of vsock, played by hand, with real sockets at the host's end."""

from __future__ import annotations

import socket

from pykrun.loop import Loop
from pykrun.supervisor.vsock import SocketPeer
from pykrun.virtio import Virtqueue
from pykrun.virtio import vsock as wire
from pykrun.virtio.vsock import HEADER, HOST_CID, WINDOW, VsockDevice
from tests.virtio.driver import Driver

CID = 3
PORT, GUEST = 1234, 5000
MUCH = 1 << 31

Packet = tuple[int, int, int, int, bytes]
"""Operation, host's port, guest's port, flags, content."""


class Guest:
    """A driver with a ring for each queue; what the host's sockets have to say is heard by `turn`."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.hosts: list[socket.socket] = []
        self.refuse = False
        self.connect_to: SocketPeer | None = None
        """The next connection's other end, if it is not a new socket."""
        self.device = VsockDevice(CID, self._connect)
        self.rings = [Driver(64, 1 << 19) for _ in range(3)]
        self.queues: list[Virtqueue] = []
        self.rooms: dict[int, int] = {}
        self.free = list(range(64))
        self._out = 0
        for index, ring in enumerate(self.rings):
            queue = ring.queue(event_idx=True)
            queue.index = index
            queue.wake = lambda queue=queue: self.serve(queue)  # type: ignore[misc]
            self.queues.append(queue)
            self.device.queue_started(queue)
        self._serving: set[int] = set()
        self._wanted: set[int] = set()
        self._start = self.rings[wire.RECEIVE].free
        self._start_out = self.rings[wire.TRANSMIT].free

    def close(self) -> None:
        self.device.reset()
        for queue, ring in zip(self.queues, self.rings, strict=True):
            self.device.queue_stopped(queue)
            queue.stop()
            ring.close()
        for host in self.hosts:
            host.close()
        self.loop.close()

    def _connect(self, port: int) -> SocketPeer | None:
        if self.connect_to is not None:
            peer, self.connect_to = self.connect_to, None
            return peer
        return None if self.refuse or port != PORT else self.peer()

    def peer(self) -> SocketPeer:
        """One more host's end, whose other side is the last of `hosts`."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.hosts.append(theirs)
        return SocketPeer(self.loop, ours)

    def serve(self, queue: Virtqueue) -> None:
        """As `pykrun.vhost_user.ring` does it: a queue that is woken while it is served is served once more."""
        if queue.index in self._serving:
            self._wanted.add(queue.index)
            return
        self._serving.add(queue.index)
        try:
            queue.refresh()
            for _ in range(200):
                position = queue.position
                self._wanted.discard(queue.index)
                self.device.serve(queue)
                more = queue.notify()
                if queue.index not in self._wanted and (not more or queue.position == position):
                    break
        finally:
            self._serving.discard(queue.index)

    def turn(self) -> None:
        """Let the loop see what has happened at the host's ends."""
        self.loop.call_later(0.0, self.loop.stop)
        self.loop.run()

    def raw(self, packet: bytes) -> None:
        ring = self.rings[wire.TRANSMIT]
        ring.free = self._start_out
        parts = [packet[:44], packet[44:]] if len(packet) > 44 else [packet]
        ring.offer(ring.direct([ring.place(part) for part in parts], 0))
        self.serve(self.queues[wire.TRANSMIT])

    def say(
        self,
        operation: int,
        content: bytes = b"",
        *,
        flags: int = 0,
        host: int = PORT,
        guest: int = GUEST,
        room: int = MUCH,
        used: int = 0,
        source: int = CID,
        target: int = HOST_CID,
        kind: int = wire.STREAM,
        length: int | None = None,
    ) -> None:
        size = len(content) if length is None else length
        head = HEADER.pack(source, target, guest, host, size, kind, operation, flags, room, used)
        self.raw(head + content)

    def give_rooms(self, count: int = 16, size: int = 4096) -> None:
        """Make buffers available, each a header's and one for content, as Linux has them."""
        ring = self.rings[wire.RECEIVE]
        for _ in range(min(count, len(self.free) // 2)):
            head, tail = self.free.pop(0), self.free.pop(0)
            place = ring.start + self._start + head * 4400
            assert tail == head + 1
            buffers = [(place, 44, True), (place + 64, size, True)]
            ring.direct(buffers, head)
            ring.offer(head)
        self.serve(self.queues[wire.RECEIVE])

    def heard(self) -> list[Packet]:
        """What came since the last call; its buffers are free again."""
        ring = self.rings[wire.RECEIVE]
        found = []
        for head, length in ring.finished():
            place = ring.start + self._start + head * 4400
            source, target, host, guest, size, kind, operation, flags, room, _ = HEADER.unpack(ring.read(place, 44))
            assert (source, target, kind) == (HOST_CID, CID, kind)
            assert length == 44 + size
            assert operation == wire.RST or room == WINDOW
            found.append((operation, host, guest, flags, ring.read(place + 64, size)))
            self.free += [head, head + 1]
        self.free.sort()
        return found

    def talk(self) -> list[Packet]:
        """Turn and fetch until there is nothing more."""
        found: list[Packet] = []
        while True:
            self.turn()
            self.give_rooms()
            more = self.heard()
            if not more:
                return found
            found += more

    def connect(self, guest: int = GUEST, room: int = MUCH) -> socket.socket:
        self.say(wire.REQUEST, guest=guest, room=room)
        assert self.talk() == [(wire.RESPONSE, PORT, guest, 0, b"")]
        return self.hosts[-1]
