"""Messages between a VM's door and who comes there (docs/exec.md): a length, JSON, and descriptors beside it."""

from __future__ import annotations

import _socket as socket  # all that is needed of it; socket itself would import enum and selectors
import os
import struct

from pykrun.errors import PeerError
from pykrun.host.sockets import receive
from pykrun.plain_json import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Message = Mapping[str, Any]
else:
    Message = dict

VERSION = 1
LONGEST = 16 << 20
"""Bytes of a message: 2 MiB of arguments and variables, each byte of which JSON may write as `\\udc80`."""
MOST_DESCRIPTORS = 8
"""That may come with one message."""
_HEADER = struct.Struct("<I")
_CHUNK = 1 << 16
_ANCILLARY = socket.CMSG_SPACE(MOST_DESCRIPTORS * 4)


def pack(message: Message) -> bytes:
    """Return a message's bytes.

    :raise PeerError: it is too long.
    """
    data = dumps(message).encode()
    if len(data) > LONGEST:
        raise PeerError(f"a message of {len(data)} bytes, at most {LONGEST} can be sent")
    return _HEADER.pack(len(data)) + data


class Channel:
    """One end of a connection, blocking or not: sends messages and puts together what comes.

    :ivar ended: the other side is gone.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.ended = False
        self._data = bytearray()
        self._descriptors: list[int] = []

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self.connection.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send one message, waiting until the other side takes it (on a socket that waits).

        :raise OSError: the other side is gone.
        """
        data = pack(message)
        sent = 0
        if descriptors:
            rights = struct.pack(f"{len(descriptors)}i", *descriptors)
            sent = self.connection.sendmsg(
                [data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL
            )
        with memoryview(data) as view:
            self.connection.sendall(view[sent:], socket.MSG_NOSIGNAL)

    def fetch(self) -> None:
        """Read once.

        :raise BlockingIOError: nothing is there, and the socket does not wait.
        :raise PeerError: more descriptors came than may, or than this process has room for.
        """
        data, descriptors, lost = receive(self.connection, _CHUNK, _ANCILLARY)
        self._descriptors += descriptors
        if lost or len(self._descriptors) > MOST_DESCRIPTORS:
            raise PeerError(f"more than {MOST_DESCRIPTORS} descriptors came with a message, or no room for them")
        self._data += data
        self.ended = not data

    @property
    def is_half(self) -> bool:
        """Whether a message has begun to come, and is not complete."""
        return bool(self._data)

    def take(self) -> tuple[Message, list[int]] | None:
        """Return the next message that is complete, with the descriptors that came with it, now the caller's.

        :raise PeerError: it is no message.
        """
        if len(self._data) < _HEADER.size:
            return None
        (size,) = _HEADER.unpack_from(self._data)
        if size > LONGEST:
            raise PeerError(f"a message of {size} bytes, at most {LONGEST} are taken")
        end = _HEADER.size + size
        if len(self._data) < end:
            return None
        body = bytes(self._data[_HEADER.size : end])
        del self._data[:end]
        try:
            message = loads(body)
        except ValueError:
            raise PeerError("a message is no JSON") from None
        if not isinstance(message, dict):
            raise PeerError("a message is no JSON object")
        taken, self._descriptors = self._descriptors, []
        return message, taken

    def close(self) -> None:
        """Close the connection, and descriptors that came and were not taken."""
        self.connection.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
