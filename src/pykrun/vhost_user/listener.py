"""Accepts front ends: the one that a socket is for, or all that come."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from struct import Struct

from pykrun.loop import IN, Loop

_CREDENTIALS = Struct("iII")  # struct ucred: pid, uid, gid
_AT_ONCE = 16


class OneConnection:
    """Waits for the first connection to a listening socket, and closes the socket with it: whoever else has connected
    or tries to is refused.

    :param listener: a listening Unix stream socket, which becomes ours. Its path stays the caller's.
    :param on_connection: called once with the connected socket, which becomes the callee's.
    """

    def __init__(self, loop: Loop, listener: socket.socket, on_connection: Callable[[socket.socket], None]) -> None:
        listener.setblocking(False)
        self._loop = loop
        self._listener = listener
        self._on_connection = on_connection
        self._closed = False
        loop.add(listener.fileno(), IN, self._acceptable)

    def close(self) -> None:
        """Stop waiting. Harmless when called again, or after a connection came."""
        if not self._closed:
            self._closed = True
            self._loop.remove(self._listener.fileno())
            self._listener.close()

    def _acceptable(self, _events: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it was there and has gone
            return
        self.close()
        self._on_connection(connection)


class AllConnections:
    """Hands out every connection to a listening socket.

    :param listener: a listening Unix stream socket, which becomes ours. Its path stays the caller's.
    :param on_connection: called with each connected socket, which becomes the callee's.
    """

    def __init__(self, loop: Loop, listener: socket.socket, on_connection: Callable[[socket.socket], None]) -> None:
        listener.setblocking(False)
        self._loop = loop
        self._listener = listener
        self._on_connection = on_connection
        self._closed = False
        loop.add(listener.fileno(), IN, self._acceptable)

    def close(self) -> None:
        """Listen no more; harmless when called again. Who is waiting to be accepted is refused."""
        if not self._closed:
            self._closed = True
            self._loop.remove(self._listener.fileno())
            self._listener.close()

    def _acceptable(self, _events: int) -> None:
        for _ in range(_AT_ONCE):
            if self._closed:
                return
            try:
                connection, _ = self._listener.accept()
            except OSError:  # no more, or it was there and has gone
                return
            self._on_connection(connection)


def peer(connection: socket.socket) -> str:
    """Who is at the other end, for a message."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return f"process {pid}" if pid else f"a process of user {uid}"  # 0: our namespace does not see it


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end has been closed, also if nobody has read that yet."""
    poll = select.poll()
    poll.register(connection, 0)  # the hang-up comes unasked
    return bool(poll.poll(0))
