"""The terminal of a container: made here, its other end sent to whoever asked for it (`--console-socket`)."""

from __future__ import annotations

import _socket as socket
import fcntl
import os
import struct
import termios

from pykrun.errors import UsageError


def open_console(path: str, size: tuple[int, int] | None) -> None:
    """Make a terminal, send its master to that socket, and make its slave 0, 1, 2 and this session's terminal.

    :param size: rows and columns, None for none yet.
    :raise UsageError: nobody listens there.
    """
    master, slave = os.openpty()
    try:
        if size is not None:
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        name = os.ttyname(slave).encode()
        rights = struct.pack("i", master)
        with _connected(path) as connection:
            connection.sendmsg([name], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for stream in range(3):
            os.dup2(slave, stream)
    except OSError as error:
        raise UsageError(f"--console-socket {path!r}: {error.strerror or error}") from None
    finally:
        os.close(master)
        os.close(slave)


class _connected:  # a context, as contextlib would make it, which would import more than all of this
    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = path

    def __enter__(self) -> socket.socket:
        try:
            self._socket.connect(self._path)
        except OSError:
            self._socket.close()
            raise
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.close()
