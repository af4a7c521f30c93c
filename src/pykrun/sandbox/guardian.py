"""A small process that tidies up when this one has ended, also by SIGKILL: a dead mount would block its users."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import NoReturn

from pykrun.host import linux
from pykrun.sandbox.child import close_all_but, lead_nowhere


class Guardian:
    """Calls `tidy` in a process of its own: when told to, or when this process has ended.

    It is out of reach of what is typed at the terminal, and of polite signals. It may be started before there is
    anything to tidy up; what it has to know then is noted.

    :param tidy: gets everything that was noted.
    :ivar pidfd: readable as soon as it has ended.
    """

    def __init__(self, tidy: Callable[[bytes], None]) -> None:
        listening, self._pipe = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _run(tidy, listening)
            self.pidfd = os.pidfd_open(self.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(listening)

    @property
    def pipe(self) -> int:
        """What keeps it waiting: a program that has a copy of this descriptor is waited for too."""
        return self._pipe

    def note(self, content: bytes) -> None:
        """Let it know something, less than a pipe's worth in all. Harmless when it was ended."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, content)

    def tidy(self) -> None:
        """Have it tidy up now, and end; returns at once. Harmless when called again."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def close(self) -> None:
        """The same, and wait for its end. The server has ended, or this may take long."""
        self.tidy()
        if self.pid:
            os.waitpid(self.pid, 0)
            os.close(self.pidfd)
            self.pid = 0


def _run(tidy: Callable[[bytes], None], listening: int) -> NoReturn:
    """The child's life; signals stay blocked."""
    status = 1
    try:
        os.setsid()
        lead_nowhere(set())
        close_all_but({0, 1, 2, listening})
        linux.set_name("pykrun guardian")
        noted = b""
        while content := os.read(listening, 4096):  # until its other end is closed, by whatever cause
            noted += content
        tidy(noted)
        status = 0
    finally:
        os._exit(status)
