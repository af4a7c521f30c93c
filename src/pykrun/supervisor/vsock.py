"""The host's end of a guest's vsock: ports that lead to Unix stream sockets, and sockets that lead to ports."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial

from pykrun.errors import UsageError
from pykrun.loop import EDGE, HANGUP, IN, OUT, Loop, Timer
from pykrun.machine import GUEST_CID, VsockPort
from pykrun.sandbox.guardian import Guardian
from pykrun.vhost_user import AllConnections
from pykrun.virtio.vsock import VsockDevice

LONGEST = 107
"""Bytes of a Unix socket's path (unix(7): 108 with the NUL)."""
MAX_PORTS = 256
"""Of one machine."""

_ANY_PORT = (1 << 32) - 1  # VMADDR_PORT_ANY
_BACKLOG = 128
_PAUSE = 0.01
_TRIES = 500  # with a pause before each: five seconds
_VIEWS = 512  # in one call; the kernel takes 1,024 (UIO_MAXIOV)


class SocketPeer:
    """A Unix stream socket as a `pykrun.virtio.vsock.Peer`; it is waited for by edges only.

    :param connection: becomes this object's.
    :param path: where it is still to be connected to: the listener's queue was full. Until then nothing is taken.
    """

    def __init__(self, loop: Loop, connection: socket.socket, path: str | None = None) -> None:
        connection.setblocking(False)
        self.on_readable: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self.gone = False
        self._loop = loop
        self._socket = connection
        self._full = False
        self._path = path
        self._tries = _TRIES
        self._again: Timer | None = None
        self._shut: list[int] = []
        if path is None:
            loop.add(connection.fileno(), IN | OUT | EDGE, self._on_event)
        else:
            self._again = loop.call_later(_PAUSE, self._try)

    def _try(self) -> None:
        """Connect, or try again soon, or give up: then the stream is broken."""
        self._tries -= 1
        try:
            self._socket.connect(self._path or "")
        except BlockingIOError:
            if self._tries:
                self._again = self._loop.call_later(_PAUSE, self._try)
                return
        except OSError:
            self._tries = 0
        else:
            self._path = None
            for how in self._shut:
                self._socket.shutdown(how)
            self._loop.add(self._socket.fileno(), IN | OUT | EDGE, self._on_event)  # and an event comes at once
            return
        self._on_event(HANGUP)

    def _on_event(self, events: int) -> None:
        if events & HANGUP and not self.gone:
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()
        if events & OUT and self._full and self.on_writable is not None:
            self._full = False
            self.on_writable()
        if events & (IN | HANGUP) and self._socket.fileno() >= 0 and self.on_readable is not None:
            self.on_readable()

    def send(self, buffers: Sequence[memoryview]) -> int:
        """Take bytes (`Peer`)."""
        if self._path is not None and self._tries:
            self._full = True
            return 0
        try:
            sent = self._socket.sendmsg(buffers[:_VIEWS], (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        self._full = sent < sum(map(len, buffers))
        return sent

    def receive_into(self, buffers: Sequence[memoryview]) -> int | None:
        """Fill the buffers (`Peer`)."""
        if self._path is not None and self._tries:
            return None
        try:
            return self._socket.recvmsg_into(buffers)[0]
        except BlockingIOError:
            return None

    def shut(self, *, receive: bool, send: bool) -> None:
        """The guest receives, or sends, no more (`Peer`)."""
        for wanted, how in ((receive, socket.SHUT_RD), (send, socket.SHUT_WR)):
            try:
                if wanted and self._path is not None:
                    self._shut.append(how)
                elif wanted:
                    self._socket.shutdown(how)
            except OSError:
                pass  # the other side is gone

    def close(self) -> None:
        """The connection is over (`Peer`)."""
        if self._again is not None:
            self._again.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
        self.on_readable = self.on_writable = self.on_gone = None


class VsockPorts:
    """The device, and the sockets on the host. Sockets of ours are there from now on, and go with this process.

    :raise UsageError: a port or path is given twice, or a socket cannot be made.
    """

    def __init__(self, loop: Loop, ports: Sequence[VsockPort]) -> None:
        _check(ports)
        self._loop = loop
        self._paths = {port.port: os.path.abspath(port.path) for port in ports if not port.listen}
        self.device = VsockDevice(GUEST_CID, self._connect)
        self._listeners: list[AllConnections] = []
        self._guardian: Guardian | None = None
        made: list[tuple[str, int, int]] = []
        try:
            for port in ports:
                if port.listen:
                    listener, identity = _listen(os.path.abspath(port.path))
                    made.append(identity)
                    self._listeners.append(AllConnections(loop, listener, partial(self._accepted, port.port)))
            if made:
                self._guardian = Guardian(lambda _noted: _remove(made))
        except BaseException:
            self.close()
            _remove(made)
            raise

    def _connect(self, port: int) -> SocketPeer | None:
        path = self._paths.get(port)
        if path is None:
            return None
        connection = None
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            connection.connect(path)
        except BlockingIOError:  # somebody listens, and is not quick enough
            assert connection is not None
            return SocketPeer(self._loop, connection, path)
        except OSError:
            if connection is not None:
                connection.close()
            return None
        return SocketPeer(self._loop, connection)

    def _accepted(self, port: int, connection: socket.socket) -> None:
        peer = SocketPeer(self._loop, connection)
        if not self.device.open(port, peer):
            peer.close()

    def close(self) -> None:
        """End all connections, and remove the sockets that are ours."""
        for listener in self._listeners:
            listener.close()
        self.device.reset()
        if self._guardian is not None:
            self._guardian.close()
            self._guardian = None


def _check(ports: Sequence[VsockPort]) -> None:
    if len(ports) > MAX_PORTS:
        raise UsageError(f"{len(ports)} vsock ports, of at most {MAX_PORTS}")
    seen: set[object] = set()
    for port in ports:
        if not 0 <= port.port < _ANY_PORT:
            raise UsageError(f"vsock port {port.port} is not one of 0 to {_ANY_PORT - 1}")
        if not port.path or "\0" in port.path or len(os.fsencode(os.path.abspath(port.path))) > LONGEST:
            raise UsageError(
                f"vsock port {port.port}: a Unix socket's path has 1 to {LONGEST} bytes, not {port.path!r}"
            )
        key = port.path if port.listen else port.port
        if key in seen:
            raise UsageError(f"vsock: {key!r} is given twice")
        seen.add(key)


def _listen(path: str) -> tuple[socket.socket, tuple[str, int, int]]:
    """Make a socket that only its user may connect to; return it and what identifies its file."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
        status = os.lstat(path)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(f"vsock: cannot make the socket {path!r}: {error.strerror}") from None
    finally:
        os.umask(before)
    return listener, (path, status.st_dev, status.st_ino)


def _remove(made: Sequence[tuple[str, int, int]]) -> None:
    """Remove what is still ours."""
    for path, device, inode in made:
        try:
            status = os.lstat(path)
            if (status.st_dev, status.st_ino) == (device, inode):
                os.unlink(path)
        except OSError:
            pass  # gone already, or out of reach
