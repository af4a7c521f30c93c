"""Accepts the one front end that a socket is for."""

from __future__ import annotations

import socket
from collections.abc import Callable

from pykrun.loop import IN, Loop


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
