"""Messages between a shim and who started it: plain values and open descriptors over a Unix stream socket.

A message is a header, the values as marshal writes them, and a byte for each further batch of descriptors: the kernel
takes at most 253 at once (SCM_MAX_FD, unix(7)). marshal is the one format that needs no import, knows bytes and is as
fast as copying; both ends are the same installation of pykrun under the same interpreter, and trust each other.
"""

from __future__ import annotations

import _socket as socket  # all that is needed of it; socket itself would import enum and selectors
import marshal
import os
import struct

from pykrun.host.sockets import receive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_HEADER = struct.Struct("<QI")
_BATCH = 250
_CHUNK = 1 << 18
_ANCILLARY = socket.CMSG_SPACE(_BATCH * 4)

Plain = None | bool | int | float | str | bytes | tuple["Plain", ...]
"""What a message is made of."""


def send(connection: socket.socket, message: Plain, descriptors: Sequence[int] = ()) -> None:
    """Send one message, waiting until the other side takes it.

    :raise OSError: the other side is gone.
    """
    payload = marshal.dumps(message)
    batches = [list(descriptors[start : start + _BATCH]) for start in range(0, len(descriptors), _BATCH)]
    header = _HEADER.pack(len(payload), len(descriptors))
    if not descriptors:  # one system call, and no half of a message for the other side to wake up for
        connection.sendall(header + payload)
        return
    connection.sendall(header)
    for batch in batches:
        connection.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(batch)}i", *batch))])
    connection.sendall(payload)


class Receiver:
    """Puts messages together from what a socket delivers, blocking or not."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._data = bytearray()
        self._descriptors: list[int] = []
        self.ended = False

    def fetch(self) -> None:
        """Read once; `ended` is set when the other side is gone.

        :raise BlockingIOError: nothing is there, and the socket does not wait.
        :raise OSError: more descriptors were sent than this process may have open (EMFILE).
        """
        data, descriptors, lost = receive(self._connection, _CHUNK, _ANCILLARY)
        self._descriptors += descriptors
        if lost:
            raise OSError(24, os.strerror(24))
        self._data += data
        self.ended = not data

    def take(self) -> tuple[Plain, list[int]] | None:
        """Return the next message that is complete, with its descriptors, which the caller owns from now on."""
        if len(self._data) < _HEADER.size:
            return None
        size, count = _HEADER.unpack_from(self._data)
        start = _HEADER.size + -(-count // _BATCH)
        if len(self._data) < start + size or len(self._descriptors) < count:
            return None
        with memoryview(self._data) as view:
            message: Plain = marshal.loads(view[start : start + size])
        del self._data[: start + size]
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return message, taken

    def close(self) -> None:
        """Close descriptors that came and were not taken."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
