"""The process that serves, without a sandbox: forked, bound to the life of the one that started it."""

from __future__ import annotations

import gc
import os
import select
import signal
from collections.abc import Callable
from typing import NoReturn

from pykrun.errors import PykrunError
from pykrun.host import linux
from pykrun.sandbox.child import close_all_but, die_with, lead_nowhere

NAME = "pykrun share"
"""What `ps` calls the process that serves."""
_FAILED = 1
_END_SECONDS = 5.0


class Worker:
    """A process that runs `serve()` and ends with it.

    :param serve: what it does.
    :param descriptors: all that it has, beside standard streams that lead nowhere. Its working directory is /proc.
    :ivar pidfd: readable as soon as it has ended.
    """

    def __init__(self, serve: Callable[[], None], descriptors: tuple[int, ...]) -> None:
        self._report, report = os.pipe()
        parent = os.pidfd_open(os.getpid())
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _run(serve, {report, parent, *descriptors}, parent, report)
            self.pidfd = os.pidfd_open(self.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(report)
            os.close(parent)
        self._status: int | None = None
        self._error = ""

    def reap(self) -> str | None:
        """Collect it when `pidfd` is readable: why it failed, empty when it had nothing more to do; None: it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == 0:
                return None
            self._status = os.waitstatus_to_exitcode(status)
            self._error = os.read(self._report, 4096).decode("utf-8", "replace")
        if self._status == 0 or self._error:
            return self._error
        if self._status < 0:
            return f"the server was ended by signal {-self._status}"
        return f"the server exited with {self._status}"

    def close(self) -> None:
        """End it, wait (bounded: it may hang in a file system), and give every descriptor back."""
        if self._report < 0:
            return
        if self.reap() is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            poll.poll(_END_SECONDS * 1000)
            self.reap()
        os.close(self.pidfd)
        os.close(self._report)
        self._report = -1


def _run(serve: Callable[[], None], kept: set[int], parent: int, report: int) -> NoReturn:
    gc.freeze()  # nothing of the parent's is collected here: its sockets' numbers may be somebody else's by now
    try:
        die_with(parent)
        linux.set_name(NAME)
        os.chdir("/proc")  # as in a sandbox
        os.setpgid(0, 0)  # what is typed at the parent's terminal is not for us
        lead_nowhere(kept)
        close_all_but({0, 1, 2, *kept})
        serve()
    except BaseException as error:  # the copy of the parent must not run on
        told = str(error) if isinstance(error, PykrunError) else f"{type(error).__name__}: {error}"
        os.write(report, told.encode("utf-8", "surrogateescape")[:4096])
        os._exit(_FAILED)
    os._exit(0)
