"""Signals to the supervisor, delivered through its event loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

from pykrun.loop import IN, Loop


class Signals:
    """Catches `numbers` until `close`, and calls `handler(number)` from the loop. Main thread only.

    Python's own handlers run between two bytecodes of whatever happens to run; here they only write a byte.
    """

    def __init__(self, loop: Loop, numbers: Iterable[int], handler: Callable[[int], None]) -> None:
        self._loop = loop
        self._handler = handler
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, _nothing) for number in numbers if not _ignored(number)}
        loop.add(self._read, IN, self._on_event)

    def _on_event(self, _events: int) -> None:
        for number in os.read(self._read, 512):
            if number in self._old:
                self._handler(number)

    def close(self) -> None:
        """Put the earlier handlers back."""
        for number, old in self._old.items():
            signal.signal(number, old)
        self._old.clear()
        signal.set_wakeup_fd(self._old_wakeup)
        self._loop.remove(self._read)
        os.close(self._read)
        os.close(self._write)


def _nothing(number: int, frame: object) -> None:
    """The byte on the wake-up descriptor is all that is wanted."""


def _ignored(number: int) -> bool:
    """Whether the caller had the signal ignored (nohup): then it stays so."""
    return signal.getsignal(number) is signal.SIG_IGN
