"""How the other side is told: by an eventfd (QEMU), or by the socket that User Mode Linux uses instead."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from functools import partial

from pykrun.errors import VhostUserError

_ONE = (1).to_bytes(8, "little")


class Notifier:
    """A call or error descriptor, owned.

    Telling never blocks. On a socket that is our own choice with each message; on an eventfd it is O_NONBLOCK, which
    the front end shares: one that has been taken over can turn it off and fill the counter, and so hold its own VM's
    server, and nobody else's.

    :param fd: closed by `close`; when this raises it stays the caller's.
    :raise VhostUserError: it is neither an eventfd nor a socket: a write to a FIFO, or to a file on a file system
        that hangs, could block for ever.
    """

    def __init__(self, fd: int) -> None:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind == stat.S_IFSOCK:
            try:
                peer = socket.socket(fileno=fd)
            except OSError as error:
                raise VhostUserError(f"notification socket cannot be used: {error}") from None
            self.tell: Callable[[], object] = partial(peer.send, _ONE, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            """Tell; raises OSError when it has been told enough, or is gone."""
            self.close: Callable[[], None] = peer.close
            """Give the descriptor back."""
        else:
            check_eventfd(fd)
            os.set_blocking(fd, False)
            self.tell = partial(os.write, fd, _ONE)
            self.close = partial(os.close, fd)


def check_eventfd(fd: int) -> None:
    """Make sure that a descriptor is an eventfd, as far as that can be seen without /proc.

    :raise VhostUserError: it is something else.
    """
    if stat.S_IFMT(os.fstat(fd).st_mode) != 0:  # anonymous inodes have no type
        raise VhostUserError("notification descriptor is neither an eventfd nor a socket")
