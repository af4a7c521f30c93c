"""What sockets carry beside bytes, and how much."""

from __future__ import annotations

import _socket as socket  # all that is needed of it; socket itself would import enum and selectors
import struct

_ROOM = 4 << 20
_SO_SNDBUFFORCE = 32  # <asm-generic/socket.h>; needs CAP_NET_ADMIN


def widen(sock: socket.socket) -> None:
    """Give a socket room for 4 MiB on their way out; an ordinary user gets what `net.core.wmem_max` allows."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)


def receive(sock: socket.socket, size: int, ancillary: int) -> tuple[bytes, list[int], bool]:
    """Read once: bytes, none of them when the other side is gone; descriptors (SCM_RIGHTS); whether some were lost.

    :param size: of the bytes, at most.
    :param ancillary: room for the descriptors, as `CMSG_SPACE` has it.
    :raise BlockingIOError: nothing is there, and the socket does not wait.
    """
    try:
        data, beside, flags, _ = sock.recvmsg(size, ancillary, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return b"", [], False
    descriptors: list[int] = []
    for level, kind, content in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors += struct.unpack_from(f"{len(content) // 4}i", content)
    return data, descriptors, bool(flags & socket.MSG_CTRUNC)
