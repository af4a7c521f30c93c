"""Lines on standard error, by level, and word to the service manager."""

from __future__ import annotations

import os
import select
import socket

LEVELS = {"off": 0, "error": 1, "warn": 2, "info": 3, "debug": 4, "trace": 5}
ERROR, WARN, INFO, DEBUG = 1, 2, 3, 4

_PATIENCE = 1000
"""Milliseconds."""


class Log:
    """Writes lines of up to one level.

    :param level: a name of `LEVELS`.
    """

    def __init__(self, level: str) -> None:
        self.level = LEVELS[level]

    def __call__(self, level: int, text: str) -> None:
        """Write a line, unless it is of a higher level than is wanted. Nobody reads it: then it is lost."""
        if level <= self.level:
            write(text)


def write(text: str) -> None:
    """Write a line to standard error, up to the size that a pipe takes whole; a reader that sleeps misses it."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    try:
        if poll.poll(_PATIENCE):
            os.write(2, f"pykrun: {text}"[: select.PIPE_BUF - 1].encode(errors="surrogateescape") + b"\n")
    except OSError:
        pass


def tell_manager(state: str) -> None:
    """Tell the service manager (`READY=1`, `STOPPING=1`), where there is one that asked for it.

    Source: sd_notify(3): a datagram to the socket that NOTIFY_SOCKET names; a leading @ is the abstract name space.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        try:
            manager.sendto(state.encode(), socket.MSG_NOSIGNAL, path.replace("@", "\0", 1) if path[0] == "@" else path)
        except OSError:
            pass  # whoever asked is not there any more
