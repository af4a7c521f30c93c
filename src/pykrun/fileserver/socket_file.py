"""The socket that front ends connect to: its file made, taken over from a dead server, removed."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EADDRINUSE, ECONNREFUSED

from pykrun.errors import UsageError

LONGEST = 107
"""Bytes of a Unix socket's path (unix(7): 108 with the NUL)."""
_BACKLOG = 16


class SocketFile:
    """A listening Unix stream socket with a name.

    Nobody can connect before the file's owner, group and mode are what they are to be: 0600, or with a group 0660.

    :param path: where; a socket that nobody listens to any more is replaced, anything else is not.
    :param group: who may connect beside the user, by name or number.
    :ivar socket: listens.
    :raise UsageError: there can be no such socket.
    """

    def __init__(self, path: str, group: str | None = None) -> None:
        self.path = path
        self._folder = os.path.dirname(path) or "."
        gid = None if group is None else _group_number(group)
        if len(os.fsencode(path)) > LONGEST:
            size = len(os.fsencode(path))
            raise UsageError(
                f"--socket-path {path!r} has {size} bytes, and a Unix socket's path at most {LONGEST}",
                "use a shorter path, or a relative one",
            )
        if not os.path.isdir(self._folder):
            raise UsageError(f"--socket-path {path!r}: there is no directory {self._folder!r}")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._identity: tuple[int, int] | None = None
        try:
            with _alone(self._folder):
                self._bind()
            status = os.lstat(path)
            self._identity = status.st_dev, status.st_ino
            if gid is not None:
                self._give_to(gid, group)
            self.socket.listen(_BACKLOG)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Listen no more, and remove the file if it is still ours."""
        self.socket.close()
        if self._identity is None:
            return
        with _alone(self._folder):
            try:
                status = os.lstat(self.path)
                if (status.st_dev, status.st_ino) == self._identity:
                    os.unlink(self.path)
            except OSError:
                pass  # gone already, or out of reach
        self._identity = None

    def _bind(self) -> None:
        before = os.umask(0o177)
        try:
            try:
                self.socket.bind(self.path)
            except OSError as error:
                if error.errno != EADDRINUSE:
                    raise
                _require_dead(self.path)
                os.unlink(self.path)
                self.socket.bind(self.path)
        except OSError as error:
            raise UsageError(f"cannot make the socket {self.path!r}: {error.strerror}") from None
        finally:
            os.umask(before)

    def _give_to(self, gid: int, group: str | None) -> None:
        try:
            os.chown(self.path, -1, gid, follow_symlinks=False)
            os.chmod(self.path, 0o660)
        except OSError as error:
            raise UsageError(
                f"cannot give the socket {self.path!r} to group {group}: {error.strerror}", "be a member of it, or root"
            ) from None


def given_socket(descriptor: int) -> socket.socket:
    """The socket that a service manager handed over, listening or connected.

    :raise UsageError: there is no such descriptor, or it is something else.
    """
    try:
        given = socket.socket(fileno=descriptor)
    except OSError as error:
        raise UsageError(f"--fd {descriptor} is no socket: {error.strerror}") from None
    if given.family != socket.AF_UNIX or given.type != socket.SOCK_STREAM:
        raise UsageError(f"--fd {descriptor} is no Unix stream socket")
    given.set_inheritable(False)
    return given


def is_listening(given: socket.socket) -> bool:
    """Whether a socket waits for connections, or is one."""
    return bool(given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _require_dead(path: str) -> None:
    """Make sure that a socket's file is nobody's any more.

    :raise UsageError: somebody listens to it, or it is no socket.
    """
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        return  # gone meanwhile
    if not stat.S_ISSOCK(kind):
        raise UsageError(f"--socket-path {path!r} exists and is no socket", "remove it, or use another path")
    # A datagram socket cannot connect to a stream socket, and is told so only if somebody has that open: no server
    # notices, while a connection would be the one that some wait for, and end with.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno == ECONNREFUSED:
                return
    raise UsageError(f"--socket-path {path!r} is in use by another server", "stop that one, or use another path")


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keep others of our kind from replacing or removing a socket in this directory meanwhile, if we may open it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _group_number(group: str) -> int:
    if group.isascii() and group.isdigit():
        return int(group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"--socket-group: there is no group {group!r}") from None
