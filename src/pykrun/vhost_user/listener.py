"""Accepts front ends: the one that a socket is for, or all that come."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from struct import Struct

from pykrun.loop import IN, Loop, Timer

_CREDENTIALS = Struct("iII")  # struct ucred: pid, uid, gid
_AT_ONCE = 16
_BREAK = 0.1
"""Seconds without new connections when this process has no descriptor left for one."""


class _Listener:
    """A listening socket in a loop."""

    def __init__(self, loop: Loop, listener: socket.socket, on_connection: Callable[[socket.socket], None]) -> None:
        listener.setblocking(False)
        self._loop = loop
        self._listener = listener
        self._on_connection = on_connection
        self._closed = False
        self._again: Timer | None = None
        self._listen()

    def _listen(self) -> None:
        self._again = None
        self._loop.add(self._listener.fileno(), IN, self._acceptable)

    def _acceptable(self, _events: int) -> None:
        raise NotImplementedError

    def _accept(self) -> socket.socket | None:
        """The next connection; None when there is none, or no descriptor left for it: then there is a break first."""
        try:
            return self._listener.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):  # no more, or it was there and has gone
            return None
        except OSError:  # the socket stays readable: it would be tried again and again
            self._loop.remove(self._listener.fileno())
            self._again = self._loop.call_later(_BREAK, self._listen)
            return None

    def close(self) -> None:
        """Listen no more; harmless when called again, or after the one connection came. Who waits to be accepted is
        refused."""
        if not self._closed:
            self._closed = True
            if self._again is not None:
                self._again.cancel()
            self._loop.remove(self._listener.fileno())
            self._listener.close()


class OneConnection(_Listener):
    """Waits for the first connection to a listening socket, and closes the socket with it: whoever else has connected
    or tries to is refused.

    :param listener: a listening Unix stream socket, which becomes ours. Its path stays the caller's.
    :param on_connection: called once with the connected socket, which becomes the callee's.
    """

    def _acceptable(self, _events: int) -> None:
        connection = self._accept()
        if connection is not None:
            self.close()
            self._on_connection(connection)


class AllConnections(_Listener):
    """Hands out every connection to a listening socket.

    :param listener: a listening Unix stream socket, which becomes ours. Its path stays the caller's.
    :param on_connection: called with each connected socket, which becomes the callee's.
    """

    def _acceptable(self, _events: int) -> None:
        for _ in range(_AT_ONCE):
            connection = None if self._closed else self._accept()
            if connection is None:
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
