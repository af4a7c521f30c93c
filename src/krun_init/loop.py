"""PID 1's poll loop: descriptors with handlers, deadlines with names."""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST = (1 << 31) - 1
"""Milliseconds that poll(2) can wait, 24 days; the turn after that waits on."""

IN, OUT, ERR, HUP = select.POLLIN, select.POLLOUT, select.POLLERR, select.POLLHUP


class Loop:
    """Level-triggered events; a handful of descriptors, so poll(2) is the cheapest there is."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._deadlines: dict[str, tuple[float, Callable[[], None]]] = {}

    def add(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler(events)` when `fd` has one of `events`, or an error or a hang-up."""
        self._poll.register(fd, events)
        self._handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """Forget `fd`, before it is closed; unknown is fine."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, name: str, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once in so many seconds, in place of what was due under that name."""
        self._deadlines[name] = (time.monotonic() + seconds, callback)

    def forget(self, name: str) -> None:
        """Drop a deadline."""
        self._deadlines.pop(name, None)

    def turn(self) -> None:
        """Wait for something to happen and handle it."""
        for fd, events in self._poll.poll(self._patience()):
            handler = self._handlers.get(fd)  # an earlier handler of this turn may have removed it
            if handler is not None:
                handler(events)
        if self._deadlines:
            self._run_deadlines()

    def _patience(self) -> float | None:
        if not self._deadlines:
            return None
        first = min(due for due, _callback in self._deadlines.values())
        return min(max(0.0, first - time.monotonic()) * 1000, _LONGEST)

    def _run_deadlines(self) -> None:
        now = time.monotonic()
        for name, (due, callback) in list(self._deadlines.items()):
            if due <= now:
                self._deadlines.pop(name, None)
                callback()
