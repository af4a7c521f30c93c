"""Signals to this process, delivered through its event loop."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself would import enum
import os
import time
from collections.abc import Callable, Iterable

from pykrun.loop import IN, Loop

PATIENCE = 2.0
"""Seconds within which the loop hears of a signal; then something holds it up."""

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
"""Signals to whoever waits for a VM that are handed on to it."""


class HeldUp(BaseException):
    """The loop does not run any more: an engine that was taken over holds it, say by a full eventfd that blocks.

    No `Exception`, so that nobody on the way takes it for a device's failure.

    :param number: the signal that was not heard; SIGALRM is the deadline.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Catches `numbers` until `close`, and calls `handler(number)` from the loop. Main thread only.

    Python's own handlers run between two bytecodes of whatever happens to run; here they only write a byte. If the
    loop has not read the byte of an earlier signal for a while, the next SIGINT or SIGTERM raises `HeldUp`.

    :param deadline: seconds after which `HeldUp` is raised, whatever the loop does; None for never.
    """

    def __init__(
        self, loop: Loop, numbers: Iterable[int], handler: Callable[[int], None], *, deadline: float | None = None
    ) -> None:
        self._loop = loop
        self._handler = handler
        self._unheard_since: float | None = None
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._caught) for number in numbers if not _ignored(number)}
        if deadline is not None:
            self._old[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._caught)
            signal.setitimer(signal.ITIMER_REAL, deadline + PATIENCE)
        loop.add(self._read, IN, self._on_event)

    def _caught(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self._unheard_since is None:
            self._unheard_since = now
        overdue = now - self._unheard_since > PATIENCE and number in (signal.SIGINT, signal.SIGTERM)
        if overdue or number == signal.SIGALRM:
            raise HeldUp(number)

    def _on_event(self, _events: int) -> None:
        self._unheard_since = None
        for number in os.read(self._read, 512):
            if number in self._old:
                self._handler(number)

    def close(self) -> None:
        """Put the earlier handlers back."""
        if signal.SIGALRM in self._old:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, old in self._old.items():
            signal.signal(number, old)
        self._old.clear()
        signal.set_wakeup_fd(self._old_wakeup)
        self._loop.remove(self._read)
        os.close(self._read)
        os.close(self._write)


def _ignored(number: int) -> bool:
    """Whether the caller had the signal ignored (nohup): then it stays so."""
    return signal.getsignal(number) is signal.SIG_IGN
