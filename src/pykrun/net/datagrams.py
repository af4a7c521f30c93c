"""Cables that carry a frame at a time: a Unix datagram socket, a tap device of this host."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Sequence
from struct import Struct

from pykrun.errors import UsageError
from pykrun.loop import EDGE, HANGUP, IN, OUT, Loop

MIN_FRAME, MAX_FRAME = 14, 65535

_VIEWS = 512
_GONE = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE, errno.EBADFD)

Parts = Sequence[bytes | memoryview]


class Datagrams:
    """A `pykrun.virtio.net.Cable` over a descriptor whose every read and write is a frame; it never blocks.

    When the other side is gone it takes everything and gives nothing.

    :param descriptor: waited for by edges only.
    :param margin: bytes before each frame that are the descriptor's own.
    :param on_end: called once when the other side is gone, with the reason.
    """

    def __init__(self, loop: Loop, descriptor: int, margin: int, on_end: Callable[[str], None]) -> None:
        self.on_frame: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None
        self.ended = False
        self._loop = loop
        self._descriptor = descriptor
        self._margin = margin
        self._on_end = on_end
        self._buffer = memoryview(bytearray(margin + MAX_FRAME + 1))
        self._frame: memoryview | None = None
        self._unsent: list[bytes] = []  # one frame at most
        loop.add(descriptor, IN | OUT | EDGE, self._on_event)

    # What the two kinds differ in

    def read_into(self, buffer: memoryview) -> int:
        """Read one frame, its margin included, without blocking."""
        raise NotImplementedError

    def write(self, parts: Parts) -> None:
        """Write one frame without blocking."""
        raise NotImplementedError

    def release(self) -> None:
        """Give the descriptor back."""
        raise NotImplementedError

    # Cable

    @property
    def ready(self) -> bool:
        """Whether the next frame can be sent (`Cable`)."""
        return not self._unsent

    def send(self, head: bytes, rest: Sequence[memoryview], size: int) -> None:
        """Send a frame (`Cable`)."""
        if self.ended:
            return
        if len(rest) >= _VIEWS:
            rest = (memoryview(b"".join(rest)),)
        if not self._write([head, *rest]):
            self._unsent.append(b"".join((head, *rest)))

    def flush(self) -> None:
        """Nothing waits here (`Cable`)."""

    def frame(self) -> memoryview | None:
        """Return the next frame, the same until `take` (`Cable`)."""
        while self._frame is None and not self.ended:
            try:
                count = self.read_into(self._buffer) - self._margin
            except BlockingIOError:
                return None
            except OSError as error:
                self._failed(error)
                return None
            if MIN_FRAME <= count <= MAX_FRAME:
                self._frame = self._buffer[self._margin : self._margin + count]
        return self._frame

    def take(self) -> None:
        """Go on to the next frame (`Cable`)."""
        self._frame = None

    # Events

    def _on_event(self, events: int) -> None:
        if events & OUT and self._unsent and self._write(self._unsent):
            self._unsent.clear()
            if self.on_room is not None:
                self.on_room()
        if events & (IN | HANGUP) and not self.ended and self.on_frame is not None:
            self.on_frame()

    def _write(self, parts: Parts) -> bool:
        """Send or drop a frame; False when there is no room for it now."""
        try:
            self.write(parts)
        except BlockingIOError:
            return False
        except OSError as error:
            self._failed(error)
        return True

    def _failed(self, error: OSError) -> None:
        """The other side is gone; or it did not want this one frame (too large for it, its link is down)."""
        if error.errno in _GONE and not self.ended:
            self.hang_up()
            self._on_end(error.strerror or str(error))

    def hang_up(self) -> None:
        """Close, while the device goes on: from now on everything is taken, and dropped."""
        waits = bool(self._unsent)
        self.close()
        if waits and self.on_room is not None:
            self.on_room()

    def close(self) -> None:
        """Leave the loop and close."""
        if not self.ended:
            self.ended = True
            self._frame = None
            self._unsent.clear()
            self._loop.remove(self._descriptor)
            self.release()


class FrameSocket(Datagrams):
    """The cable to a connected Unix datagram socket.

    :param connection: becomes this object's.
    """

    def __init__(self, loop: Loop, connection: socket.socket, on_end: Callable[[str], None]) -> None:
        self._socket = connection
        super().__init__(loop, connection.fileno(), 0, on_end)

    def read_into(self, buffer: memoryview) -> int:
        """Receive one datagram."""
        return self._socket.recv_into(buffer, 0, socket.MSG_DONTWAIT)

    def write(self, parts: Parts) -> None:
        """Send one datagram."""
        self._socket.sendmsg(parts, (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def release(self) -> None:
        """Close the socket."""
        self._socket.close()


_TUN = "/dev/net/tun"
_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8  # <linux/if_tun.h>
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFREQ = Struct("16sH22x")  # struct ifreq: name, flags
_HEADER = 12  # struct virtio_net_hdr_v1; with no offload agreed upon there is nothing in it
MAX_NAME = 15
"""Bytes of a network device's name (IFNAMSIZ with its NUL)."""


class Tap(Datagrams):
    """The cable to a tap device of this process's network namespace.

    :param name: it is made if it does not exist, which takes CAP_NET_ADMIN, and then goes with this process.
    :raise UsageError: it cannot be opened.
    """

    def __init__(self, loop: Loop, name: str, on_end: Callable[[str], None]) -> None:
        if not 0 < len(name.encode()) <= MAX_NAME or "\0" in name or "/" in name:
            raise UsageError(f"{name!r} is no name of a network device", f"one has 1 to {MAX_NAME} bytes")
        try:
            descriptor = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"tap {name}: cannot open {_TUN}: {error.strerror}", "it needs the module tun") from None
        try:
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
            fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, Struct("i").pack(_HEADER))
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, 0)
        except OSError as error:
            os.close(descriptor)
            hint = "make it and give it to your user: `ip tuntap add NAME mode tap user USER`"
            raise UsageError(f"cannot use the tap device {name}: {error.strerror}", hint) from None
        super().__init__(loop, descriptor, _HEADER, on_end)

    def read_into(self, buffer: memoryview) -> int:
        """Read one frame behind its header."""
        return os.readv(self._descriptor, [buffer])

    def write(self, parts: Parts) -> None:
        """Write one frame behind an empty header."""
        os.writev(self._descriptor, [bytes(_HEADER), *parts])

    def release(self) -> None:
        """Close the device, which goes if it was made here."""
        os.close(self._descriptor)
