"""The supervisor's end of its socket: start and signals, before the VM there is and while it runs."""

from __future__ import annotations

import _socket as socket
import os
import signal
import struct

from pykrun.loop import IN, Loop
from pykrun.oci.wire import FAILED, OK, SIGNAL, START
from pykrun.shim.wire import Plain, Receiver, send
from pykrun.supervisor import VirtualMachine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 1.0
"""Seconds that a client has for its message, which is in the socket before we look."""
_HARMLESS = frozenset(
    (
        *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
        *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    )
)
"""What does not end a process that has set up nothing."""


class Control:
    """Listens; a `Remote` of the VM once that runs.

    :param path: of the socket.
    :param on_started: called as soon as the workload runs, before who asked for that is told.
    """

    def __init__(self, path: str, on_started: Callable[[], None]) -> None:
        self._on_started = on_started
        self._starter: socket.socket | None = None
        self._loop: Loop | None = None
        self._vm: VirtualMachine | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(16)

    def wait_for_start(self) -> None:
        """Answer until somebody says that the container is to start; a signal may end this process instead."""
        while self._starter is None:
            self._on_connection(0)

    def attach(self, loop: Loop, vm: VirtualMachine) -> None:
        """Go on from the loop (`Remote`)."""
        self._loop, self._vm = loop, vm
        self._listener.setblocking(False)
        loop.add(self._listener.fileno(), IN, self._on_connection)

    def detach(self) -> None:
        """Listen no more (`Remote`)."""
        if self._loop is not None:
            self._loop.remove(self._listener.fileno())
            self._loop = self._vm = None

    def reached(self, phase: str, _when: float) -> None:
        """Tell who waits for the start (`Remote`)."""
        if phase == "started":
            self._on_started()
            self._tell_starter((OK,))

    def input_unread(self) -> None:
        """Standard input is the container's alone: close it, so that who writes to it hears of that (`Remote`)."""
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0, inheritable=False)
        os.close(null)

    def failed(self, message: str, hint: str = "") -> bool:
        """The container will not start; whether somebody heard."""
        waiting = self._starter is not None
        self._tell_starter((FAILED, message, hint))
        return waiting

    def _tell_starter(self, message: Plain) -> None:
        starter, self._starter = self._starter, None
        if starter is not None:
            _reply(starter, message)

    def _on_connection(self, _events: int) -> None:
        try:
            descriptor, _ = self._listener._accept()
        except OSError:
            return
        connection = socket.socket(fileno=descriptor)
        connection.settimeout(_PATIENCE)
        if not _is_ours(connection):
            connection.close()
            return
        receiver = Receiver(connection)
        try:
            while (taken := receiver.take()) is None and not receiver.ended:
                receiver.fetch()
        except OSError:
            taken = None
        match taken and taken[0]:
            case (kind,) if kind == START and self._starter is None and self._vm is None:
                self._starter = connection
            case (kind,) if kind == START:
                _reply(connection, (FAILED, "cannot start an already running container", ""))
            case (kind, int(number)) if kind == SIGNAL:
                self._signal(number)
                _reply(connection, (OK,))
            case _:
                connection.close()

    def _signal(self, number: int) -> None:
        if self._vm is not None:
            self._vm.send_signal(number)
        elif number not in _HARMLESS:
            os._exit(128 + number)


def _reply(connection: socket.socket, message: Plain) -> None:
    try:
        send(connection, message)
    except OSError:
        pass  # it did not wait
    connection.close()


def _is_ours(connection: socket.socket) -> bool:
    """Whether root or our own user connected."""
    _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (0, os.geteuid())
