"""The caller's side of a shim."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself would import enum, socket too
import _socket as socket
import os
import select
import sys
import time
from collections import deque

from pykrun.errors import EngineError, MissingError
from pykrun.request import Request
from pykrun.shim.codec import Encoder, decode
from pykrun.shim.events import END, HEARD, SIGNAL, STOP, VISIT, Ended, Event, Failed
from pykrun.shim.wire import Plain, Receiver, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

CONNECTION = 3
"""The descriptor at which a shim finds its socket."""

_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
_PROGRAM = "import gc, sys; gc.disable(); sys.path.insert(0, sys.argv[1]); from pykrun.shim.main import main; main()"
"""Modules are no garbage: a tenth of the time of importing them would go into looking for it."""
_PATIENCE = 20.0
"""Seconds that a shim has for its end after its connection was closed; everything it ends has a shorter deadline."""


class Shim:
    """One supervisor, from its start to its end. It may be used from any thread, but from one at a time.

    It is started early: it imports what it needs while its caller still thinks about the request. When the connection
    is closed, by `close` or by this process' end, the VM ends with it.

    :param session: it leads a session of its own (setsid(2)), so that a terminal's signals do not reach it.
    :raise MissingError: this process does not know its own interpreter.
    :raise EngineError: the host can run no further process.
    """

    def __init__(self, *, session: bool = False) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.pid = _spawn(theirs.fileno(), session)
            self.pidfd = _open(self.pid)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._connection = ours
        self._receiver = Receiver(ours)
        self._events: deque[Event] = deque()
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor that is readable when there is something to `receive`."""
        return self._connection.fileno()

    def launch(self, request: Request) -> None:
        """Send what is to be run; once. Its descriptors stay the caller's, and may be closed afterwards.

        :raise EngineError: the shim is gone.
        """
        encoder = Encoder()
        try:
            send(self._connection, encoder.encode(request), encoder.descriptors)
        except OSError as error:
            raise EngineError(f"the supervisor could not be told what to run: {error.strerror}") from None
        finally:
            encoder.close()

    def send_signal(self, number: int) -> None:
        """Send the workload a signal, as soon as it runs."""
        self._command((SIGNAL, int(number)))  # a member of an enumeration does not travel

    def stop(self, grace: float | None = None, code: int = 128 + signal.SIGTERM) -> None:
        """Ask the guest for an orderly end (`VirtualMachine.stop`)."""
        self._command((STOP, grace, int(code)))

    def end(self, code: int = 128 + signal.SIGKILL) -> None:
        """End the VM now."""
        self._command((END, int(code)))

    def kill(self) -> None:
        """End the shim itself, which takes its VM along: for while it reads no commands, as before its VM is launched.

        Its last event is a failure.
        """
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:  # it has ended, and somebody has reaped it
            pass

    def hear(self, number: int) -> None:
        """Pass on a signal that came to this process and is meant for the supervisor, as `pykrun run` takes it."""
        self._command((HEARD, number))

    def visit(self) -> socket.socket:
        """Return a new connection to the VM's door (docs/exec.md), the caller's to close; it works unlisted too."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._command((VISIT,), (theirs.fileno(),))
        finally:
            theirs.close()
        return ours

    def receive(self, timeout: float | None = None) -> Event | None:
        """Return the next event; None when there is none in time, or after the last one.

        :param timeout: seconds to wait, None for as long as it takes.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._events and not self._over:
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not poll.poll(None if left is None else left * 1000):
                return None
            self._fetch()
        return self._events.popleft() if self._events else None

    def close(self) -> int | None:
        """End the VM if it still runs, wait for the shim's end, and give everything back; harmless when repeated.

        :return: how the shim ended (`os.waitstatus_to_exitcode`), None when somebody else has waited for it.
        """
        if self._connection.fileno() < 0:
            return None
        self._connection.close()
        self._receiver.close()
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(_PATIENCE * 1000):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        try:
            ended = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        except ChildProcessError:  # the caller reaps whatever child of its ends
            ended = None
        os.close(self.pidfd)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def leave(self) -> int:
        """Close the connection and do not wait; the shim ends by itself when nobody else has it.

        :return: its pidfd, the caller's to wait for and to close.
        """
        self._connection.close()
        self._receiver.close()
        return self.pidfd

    def forget(self) -> None:
        """Close this process' copies after a fork: the VM is the parent's."""
        if self._connection.fileno() >= 0:
            self._connection.close()
            os.close(self.pidfd)

    def _command(self, command: Plain, descriptors: Sequence[int] = ()) -> None:
        try:
            send(self._connection, command, descriptors)
        except OSError:  # it has ended, which its last event tells
            pass

    def _fetch(self) -> None:
        try:
            self._receiver.fetch()
        except BlockingIOError:
            return
        while (taken := self._receiver.take()) is not None:
            event: Event = decode(*taken)  # type: ignore[assignment]  # both ends are ours
            self._events.append(event)
            self._over |= isinstance(event, Ended | Failed)
        if self._receiver.ended and not self._over:
            self._over = True
            self._events.append(Failed("EngineError", "the supervisor of the VM was ended", "by a signal, perhaps"))


def _spawn(connection: int, session: bool) -> int:
    """Start the interpreter, isolated from the caller's environment; nothing of ours is inherited but the socket."""
    if not sys.executable:
        raise MissingError("this process does not know its Python interpreter (sys.executable is empty)")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # Out of the way of the numbers that are filled below.
    high = [_above(descriptor) for descriptor in (null, connection)]
    actions = [
        (os.POSIX_SPAWN_DUP2, high[0], 0),
        (os.POSIX_SPAWN_DUP2, high[0], 1),
        *([] if _is_open(2) else [(os.POSIX_SPAWN_DUP2, high[0], 2)]),
        (os.POSIX_SPAWN_DUP2, high[1], CONNECTION),
    ]
    words = [sys.executable, "-I", "-S", "-c", _PROGRAM, _FOLDER]
    try:
        return os.posix_spawn(sys.executable, words, os.environ, file_actions=actions, setsid=session, setsigmask=())
    except OSError as error:
        raise EngineError(f"cannot start the supervisor's process: {error.strerror}") from None
    finally:
        for descriptor in (null, *high):
            os.close(descriptor)


def _open(pid: int) -> int:
    """Return a new child's pidfd; without one nobody would wait for it later."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except OSError:  # the caller reaps whatever child of its ends
            pass
        raise


def _above(descriptor: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, CONNECTION + 1)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
