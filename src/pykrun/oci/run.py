"""The verb `run`: create and start a container, and stand for it until its end."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself would import enum
import os
import select

from pykrun.errors import EngineError, PykrunError
from pykrun.oci import create
from pykrun.oci.lifetime import remove, run_late_hooks
from pykrun.oci.options import FLAG, Given, Table
from pykrun.oci.signals import HARMLESS, Heard
from pykrun.oci.state import Container
from pykrun.oci.wire import knock
from pykrun.vms.client import GONE

_TABLE: Table = {
    **create.TABLE,
    "detach,d": (FLAG, "do not wait for the end"),
    "keep": (FLAG, "do not delete the container at its end"),
    "no-subreaper": (FLAG, "accepted"),
}
OPTIONS = {"run": ("[OPTION...] CONTAINER", _TABLE)}
_PATIENCE_MS = 5000
"""Milliseconds that a supervisor has for an orderly end."""


class _Interrupted(Exception):
    """A signal that ends a process came before the program ran."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(root: str, settings: Given, options: Given) -> int:
    """Create and start a container; wait for its end, unless --detach; the exit status is the container's.

    What signals come meanwhile are the program's. One that comes before it runs ends the container, if it would end a
    process.
    """
    container = Container(root, options.only())
    heard = Heard()
    try:
        pid = create.make(root, settings, options, lambda connection: _await(connection.fileno(), heard))
        try:
            _start(container, heard)
            run_late_hooks("poststart", container.read())
        except BaseException:
            _end(container, pid)
            remove(container)
            raise
    except _Interrupted as error:
        return 128 + error.number
    if options.flag("detach"):
        return 0
    status = _wait(container, pid, heard)
    if not options.flag("keep"):
        remove(container)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _await(descriptor: int, heard: Heard) -> None:
    """Wait until there is something to read.

    :raise _Interrupted: a signal came first.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(heard.fileno(), select.POLLIN)
    while descriptor not in (ready for ready, _ in poll.poll()):
        for number in heard.take():
            if number not in HARMLESS:
                raise _Interrupted(number)


def _start(container: Container, heard: Heard) -> None:
    with knock(container.folder) as client:
        client.ask("start")
        message = None
        while message is None:
            _await(client.fileno(), heard)
            message = client.receive(0)
        if message is GONE:
            raise EngineError("the VM has ended")


def _end(container: Container, pid: int) -> None:
    """End a supervisor that is this process' child: in order, so that it gives back what it has taken, or by force."""
    pidfd = os.pidfd_open(pid)
    try:
        with knock(container.folder) as client:
            client.ask("end")
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(_PATIENCE_MS)
    except PykrunError:
        pass  # it ends, or does not listen
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.close(pidfd)
    os.waitpid(pid, 0)


def _wait(container: Container, pid: int, heard: Heard) -> int:
    """Hand on signals until the supervisor has ended; return its status, as waitpid(2) has it."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(heard.fileno(), select.POLLIN)
    while pidfd not in (ready for ready, _ in poll.poll()):
        for number in heard.take():
            _hand_on(container, number)
    os.close(pidfd)
    return os.waitpid(pid, 0)[1]


def _hand_on(container: Container, number: int) -> None:
    try:
        with knock(container.folder) as client:
            client.call("signal", number=number)
    except (PykrunError, OSError):
        pass  # it has just ended
