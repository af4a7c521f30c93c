"""What the process that serves and the one that started it say to each other: one message a datagram.

The one that serves works for a guest that may take it over, and everything outside is done by the other one: it
accepts connections, writes to standard error, mounts and unmounts. So what comes up this link is text to be shown,
bounded and cleaned, and nothing else.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable

LOG = b"L"
"""Up: a level (one digit) and a line for the log."""
READY = b"R"
"""Up: the share is composed; what comes down is served now."""
ANSWERED = b"A"
"""Up: the kernel's first request was answered: the mount can be used."""
ENDED = b"E"
"""Up: a connection is over: its number, a blank, and what was wrong, if anything was."""
COUNTS = b"S"
"""Down: how often did each operation come? Up: the answer, lines of `NAME NUMBER`."""
CONNECTION = b"C"
"""Down, with a descriptor: where requests come from: a front end, whose number is told, or /dev/fuse."""
QUIT = b"Q"
"""Down: end."""

LONGEST = 16384
_PATIENCE = 2.0
"""Seconds that the last words may take; all others are dropped when nobody reads."""

OnMessage = Callable[[bytes, str, int], None]
"""Kind, text, and the descriptor that came with it or -1."""


def pair() -> tuple[Link, Link]:
    """Make both ends of a link."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Link(ends[0]), Link(ends[1])


class Link:
    """One end."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    def fileno(self) -> int:
        """The descriptor: readable when there is something for `receive`."""
        return self._socket.fileno()

    def send(self, kind: bytes, text: str = "", *, descriptor: int = -1, wait: bool = False) -> bool:
        """Send a message; return whether it was.

        :param wait: wait a little when the other side does not read.
        """
        self._socket.settimeout(_PATIENCE if wait else 0.0)
        message = (kind + text.encode("utf-8", "surrogateescape"))[:LONGEST]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))] if descriptor >= 0 else []
        try:
            self._socket.sendmsg([message], rights, socket.MSG_NOSIGNAL)
        except OSError:  # full, or nobody is there any more
            return False
        finally:
            self._socket.setblocking(False)
        return True

    def receive(self, on_message: OnMessage, most: int = 64) -> bool:
        """Hand out messages that are there, up to a number; return False when the other end is closed.

        The descriptor of a message is closed afterwards: `on_message` may duplicate it.
        """
        for _ in range(most):
            try:
                message, ancillary, _, _ = self._socket.recvmsg(LONGEST, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return True
            except OSError:
                return False
            descriptors = array.array("i")
            for _, _, content in ancillary:
                descriptors.frombytes(content[: len(content) & ~3])
            if not message:
                for descriptor in descriptors:
                    os.close(descriptor)
                return False
            try:
                text = message[1:].decode("utf-8", "surrogateescape")
                on_message(message[:1], text, descriptors[0] if descriptors else -1)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        return True

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def clean(text: str) -> str:
    """Make a line of whatever came: no control characters, bounded. A terminal may be reading it."""
    return "".join(char if char.isprintable() else "?" for char in text[:1000])
