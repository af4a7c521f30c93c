"""Locks that are waited for, where the kernel on the other side can take a request back: the server never waits.

Nobody is told when the host releases a lock, and waiting for one takes a thread for each: so requests are kept and
tried again, after whatever else was served, which may have released it, and now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, EINTR, ENOLCK

from pykrun.fuse import wire
from pykrun.fuse.server import Server

AGAIN = 0.05
"""Seconds after which to try again."""
_MOST = 256
"""Requests that may wait."""
_UNIQUE = slice(8, 16)  # in struct fuse_in_header
_INTERRUPTED = slice(40, 48)  # in struct fuse_interrupt_in, after it
_ERROR = slice(4, 8)  # in struct fuse_out_header


class WaitingLocks:
    """SETLKW requests whose lock is taken.

    :param send: takes a reply.
    """

    def __init__(self, server: Server, send: Callable[[memoryview], object]) -> None:
        self._server = server
        self._send = send
        self._requests: dict[bytes, bytes] = {}  # by unique, the longest waiting first

    def __len__(self) -> int:
        return len(self._requests)

    def take(self, request: bytes) -> None:
        """Serve a SETLKW, now or later, or an INTERRUPT.

        An INTERRUPT has no reply. Whatever it is about, if it does not wait here, was answered before.
        """
        if request[4] == wire.INTERRUPT:
            unique = request[_INTERRUPTED]
            if self._requests.pop(unique, None) is not None:
                self._refuse(unique, EINTR)
        elif not self._done(request, self._server.handle):
            unique = request[_UNIQUE]
            if len(self._requests) < _MOST:
                self._requests[unique] = request
            else:
                self._refuse(unique, ENOLCK)

    def retry(self) -> None:
        """Answer all whose lock can be had now."""
        for unique, request in list(self._requests.items()):
            if self._done(request, self._server.handle_again):
                del self._requests[unique]

    def clear(self) -> None:
        """Forget all: the mount is gone, and who waited knows."""
        self._requests.clear()

    def _done(self, request: bytes, handle: Callable[[list[memoryview], list[memoryview]], int]) -> bool:
        reply = memoryview(bytearray(wire.OUT_HEADER.size))
        length = handle([memoryview(request)], [reply])
        if int.from_bytes(reply[_ERROR], "little", signed=True) == -EAGAIN:
            return False
        if length:
            self._send(reply[:length])
        return True

    def _refuse(self, unique: bytes, error: int) -> None:
        size = wire.OUT_HEADER.size
        self._send(memoryview(wire.OUT_HEADER.pack(size, -error, int.from_bytes(unique, "little"))))
