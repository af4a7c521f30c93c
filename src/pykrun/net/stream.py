"""The cable between a network device and passt: frames on a Unix stream socket, each behind its length.

passt of 2023 (Debian 12's) reads what there is, takes it apart, and reads the rest of a cut frame with one more call.
It loses its place in the stream for good when that call brings less than the rest, or when four bytes or fewer are left
over. So what is sent here comes in pieces that it never sees half of:

- small frames are put together to at most `_PIECE` bytes, which the kernel queues as one buffer, all or nothing;
- a large one is sent by a call of its own, so that its length and headers are in one buffer;
- passt's end of the socket has a low-water mark above any frame: its second call waits for all that it asks for.

What the socket does not take waits here, at most a piece and a frame; then the device stops taking from the guest.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from struct import Struct

from pykrun.host.sockets import widen
from pykrun.loop import HANGUP, IN, OUT, Loop
from pykrun.net.border import Border, OpenBorder
from pykrun.net.ends import Ends
from pykrun.net.openings import NOBODY, Openings
from pykrun.net.openings import SIZES as OPENINGS
from pykrun.net.repair import SIZES, acknowledge_refusal

LENGTH = Struct(">I")
MIN_FRAME, MAX_FRAME = 14, 65535

_PIECE = 32768
_SMALL = 4096  # copying so much costs less than naming it to the kernel on its own
_BUFFER = 1 << 20
_LARGEST = LENGTH.size + MAX_FRAME
_VIEWS = 512  # in one call; the kernel takes 1,024 (UIO_MAXIOV)


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Return our end, non-blocking, and passt's, with room for a burst of frames from either side.

    With the usual 208 KiB passt drops what a busy guest does not read at once, and TCP takes that for a lossy line:
    12 to 93 MB/s in place of 700. An ordinary user gets what `net.core.wmem_max` allows.
    """
    ours, theirs = socket.socketpair()
    widen(ours)
    widen(theirs)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _LARGEST)
    ours.setblocking(False)
    return ours, theirs


class FrameStream:
    """A `pykrun.virtio.net.Cable` to passt. When passt is gone it takes everything and gives nothing.

    :param connection: our end of `make_pair`; becomes this object's.
    :param on_end: called once when the other side is gone, or spoke no frames; with what it did wrong, or nothing.
    :param border: what may leave; the usual if None. An `OpenBorder` lets everything pass as it is, ends too.
    :param mac: the address of the guest's card, for whoever connects to it before passt has heard of it.
    :param who: the other side, for messages.
    """

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        on_end: Callable[[str], None],
        border: Border | OpenBorder | None = None,
        who: str = "passt",
        mac: bytes = NOBODY,
    ) -> None:
        self.on_frame: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None
        self.ended = False
        self.refused = 0
        """How many frames were not let out (`border`)."""
        self._loop = loop
        self._socket = connection
        self._on_end = on_end
        self._border = border or Border()
        self._ends = None if isinstance(border, OpenBorder) else Ends(loop, self._send_small)
        self._openings = None if isinstance(border, OpenBorder) else Openings(loop, self._say_again, mac)
        self._who = who
        self._batch: list[bytes] = []
        self._batched = 0  # bytes
        self._unsent: list[memoryview] = []  # each goes out by calls of its own
        self._buffer = memoryview(bytearray(_BUFFER))
        self._low = self._high = 0  # what has come and was not taken
        self._size = 0  # of the frame at _low, its length included; 0 if nobody has seen it
        self._again: list[bytes] = []  # frames of our own for the guest, which go first
        self._events = IN
        loop.add(connection.fileno(), IN, self._on_event)

    # To passt

    @property
    def ready(self) -> bool:
        """Whether the next frame can be sent (`Cable`)."""
        return not self._unsent

    def send(self, head: bytes, rest: Sequence[memoryview], size: int) -> None:
        """Send a frame that may leave the guest (`Cable`)."""
        if self.ended:
            return
        if not self._border.may_leave(head):
            self.refused += 1
            return
        openings = self._openings
        if openings is not None and (openings.waiting or openings.answered) and openings.answers_again(head):
            return
        if self._ends is not None and self._ends.keeps(head, size):
            return
        total = LENGTH.size + size
        if size <= _SMALL:
            if self._batched + total > _PIECE:
                self.flush()
            self._batch.append(b"".join((LENGTH.pack(size), head, *rest)))
            self._batched += total
            return
        self.flush()
        if len(rest) >= _VIEWS:
            rest = (memoryview(b"".join(rest)),)
        self._put([LENGTH.pack(size) + head, *rest], total)

    def flush(self) -> None:
        """Send the small frames that wait for company (`Cable`)."""
        if self._batch:
            batch, size = self._batch, self._batched
            self._batch, self._batched = [], 0
            self._put([b"".join(batch)], size)

    def _send_small(self, frame: bytes) -> None:
        """Send a frame of our own, behind all that wait."""
        if not self.ended:
            self._batch.append(LENGTH.pack(len(frame)) + frame)
            self._batched += LENGTH.size + len(frame)
            self.flush()

    def _put(self, parts: list[bytes | memoryview], size: int) -> None:
        """Send what the socket takes, and keep a copy of the rest."""
        sent = 0
        if not self._unsent:
            try:
                sent = self._socket.sendmsg(parts, (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                pass
            except OSError:
                self._end("")
                return
        if sent < size:
            self._unsent.append(memoryview(b"".join(parts))[sent:])
            self._watch()

    def _send_unsent(self) -> None:
        unsent = self._unsent
        while unsent:
            try:
                sent = self._socket.send(unsent[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                self._end("")
                return
            if sent < len(unsent[0]):
                unsent[0] = unsent[0][sent:]
                return
            del unsent[0]
        self._watch()
        if self.on_room is not None:
            self.on_room()

    # From passt

    def frame(self) -> memoryview | None:
        """Return the next frame that came, the same until `take` (`Cable`)."""
        if self._again and not self._size:
            return memoryview(self._again[0])
        low, there = self._low, self._high - self._low
        if there < LENGTH.size:
            return None
        (size,) = LENGTH.unpack_from(self._buffer, low)
        if not MIN_FRAME <= size <= MAX_FRAME:
            self._end(f"{self._who} sent a frame of {size} bytes")
            return None
        if there < LENGTH.size + size:
            return None
        self._size = LENGTH.size + size
        frame = self._buffer[low + LENGTH.size : low + self._size]
        if self._border.asked:
            self._border.note(frame)
        if size in SIZES:
            acknowledge_refusal(frame)
        if self._ends is not None:
            self._ends.note(frame)
        if self._openings is not None and (size in OPENINGS or self._openings.waiting):
            self._openings.note(frame)
        return frame

    def take(self) -> None:
        """Go on to the next frame (`Cable`)."""
        if not self._size:
            del self._again[:1]  # there may be none: all ends when passt has gone meanwhile
            return
        self._low += self._size
        self._size = 0
        if not self._events & IN and not self.ended:
            self._watch()

    def _say_again(self, frame: bytes) -> None:
        """Give the guest a frame of our own, once at a time."""
        if not self.ended and frame not in self._again:
            self._again.append(frame)
            if self.on_frame is not None:
                self.on_frame()

    def _receive(self) -> None:
        if _BUFFER - self._high < _LARGEST:  # the rest moves to the front
            rest = self._high - self._low
            self._buffer[:rest] = self._buffer[self._low : self._high]
            self._low, self._high = 0, rest
        try:
            count = self._socket.recv_into(self._buffer[self._high :], 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:  # ECONNRESET: it was killed
            count = 0
        if count == 0:
            self._end("")
            return
        self._high += count
        if self.on_frame is not None:
            self.on_frame()
        if self._low == self._high:
            self._low = self._high = 0
        self._watch()

    # Both

    def _on_event(self, events: int) -> None:
        if events & OUT:
            self._send_unsent()
        if events & (IN | HANGUP) and not self.ended:
            self._receive()

    def _watch(self) -> None:
        """Wait for room when something is unsent, for frames when there is room for one more of the largest."""
        if self.ended:
            return
        free = _BUFFER - (self._high - self._low)
        events = (IN if free >= _LARGEST else 0) | (OUT if self._unsent else 0)
        if events == self._events:
            return
        self._loop.remove(self._socket.fileno())  # with nothing to wait for, a hang-up must not spin the loop
        if events:
            self._loop.add(self._socket.fileno(), events, self._on_event)
        self._events = events

    def _end(self, why: str) -> None:
        if not self.ended:
            self.hang_up()
            self._on_end(why)

    def hang_up(self) -> None:
        """Close, while the device goes on: from now on everything is taken, and dropped."""
        if not self.ended:
            self.close()
            if self.on_room is not None:
                self.on_room()

    def close(self) -> None:
        """Leave the loop and close the socket, which is how passt learns that it is to end."""
        if not self.ended:
            self.ended = True
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._unsent.clear()
            self._batch.clear()
            self._again.clear()
            self._low = self._high = self._size = 0
