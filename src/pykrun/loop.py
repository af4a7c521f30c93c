"""The one event loop of a supervisor or file server: descriptors, timers, nothing else.

asyncio would cost more time to import than a whole microVM takes to boot its kernel, and the hot path
(a kick, a request, a reply) wants one dictionary look-up between epoll and the handler.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from itertools import count

IN = select.EPOLLIN
OUT = select.EPOLLOUT
EDGE = select.EPOLLET
HANGUP = select.EPOLLHUP | select.EPOLLERR

_AT_ONCE = 32
"""Descriptors told of by one wait. By default there is room for a thousand, made and thrown away each time."""
LONGEST_WAIT = 86400.0
"""Seconds; epoll takes at most 2^31 ms at once."""

Handler = Callable[[int], None]


class Timer:
    """A callback that is due once; `cancel` forgets it."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the callback; harmless when it has run already."""
        self.callback = None


class Loop:
    """Level-triggered (or, with `EDGE`, edge-triggered) descriptors and timers of one thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._stopped = True

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler(events)` whenever `fd` has one of `events`.

        :raise PermissionError: epoll does not take this kind of descriptor (a regular file): it is always ready.
        """
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events on `fd` from now on; 0 leaves only hang-up and error."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget `fd`; to be called before it is closed. Unknown descriptors are ignored."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, after at least `seconds`."""
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def stop(self) -> None:
        """Let `run` return after the handler that runs now."""
        self._stopped = True

    def run(self) -> None:
        """Dispatch until `stop` is called."""
        self._stopped = False
        poll, handlers = self._epoll.poll, self._handlers
        while not self._stopped:
            for fd, events in poll(self._timeout() if self._timers else None, _AT_ONCE):
                handler = handlers.get(fd)  # an earlier handler of this batch may have removed it
                if handler is not None and not self._stopped:
                    handler(events)
            if self._timers:
                self._run_timers()

    def close(self) -> None:
        """Give the epoll descriptor back."""
        self._handlers.clear()
        self._epoll.close()

    def _timeout(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return min(max(0.0, self._timers[0][0] - time.monotonic()), LONGEST_WAIT)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now and not self._stopped:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()
