"""Room in sockets."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

_ROOM = 4 << 20
_SOL_SOCKET, _SO_SNDBUF, _SO_SNDBUFFORCE = 1, 7, 32  # <asm-generic/socket.h>; the last needs CAP_NET_ADMIN


def widen(sock: socket.socket) -> None:
    """Give a socket room for 4 MiB on their way out; an ordinary user gets what `net.core.wmem_max` allows."""
    try:
        sock.setsockopt(_SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM)
    except PermissionError:
        sock.setsockopt(_SOL_SOCKET, _SO_SNDBUF, _ROOM)
