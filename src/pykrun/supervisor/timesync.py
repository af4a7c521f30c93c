"""This host's clock for the guest: when to tell it, and the port for guests that have no init to take frames.

The way is one-way: a record must hold the time of the moment when it leaves, so nothing here keeps one.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from struct import Struct

from pykrun.buffers import scatter
from pykrun.host import linux
from pykrun.loop import IN, Loop

PERIOD = 30.0
"""Seconds between two records. Clocks that drift apart by 100 ppm are 3 ms off by then."""
SOON = 1.0
"""Seconds to the second record: the first one may have waited in the guest, which was still booting."""

RECORD = Struct("<Q")
"""Nanoseconds since the epoch."""


class ClockWatch:
    """Says when the guest is to be told the time: now and then, and at once when the clock took a leap.

    A leap is that somebody set this host's clock, or that the host was suspended: the kernel then cancels a timer on
    that clock that asked for it (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).

    :param on_time: called each time, from the loop.
    """

    def __init__(self, loop: Loop, on_time: Callable[[], None]) -> None:
        self._loop = loop
        self._on_time = on_time
        self._timer = linux.timerfd_create(time.CLOCK_REALTIME)
        loop.add(self._timer, IN, self._on_event)

    def start(self) -> None:
        """The guest is there, and has just been told."""
        self._arm(SOON)

    def _arm(self, seconds: float) -> None:
        flags = linux.TFD_TIMER_ABSTIME | linux.TFD_TIMER_CANCEL_ON_SET
        try:
            linux.timerfd_settime(self._timer, flags, time.time_ns() + int(seconds * 1e9))
        except OSError as error:
            if error.errno != errno.ECANCELED:  # one more leap, of which we speak anyway; the timer runs
                raise

    def _on_event(self, _events: int) -> None:
        try:
            os.read(self._timer, 8)
        except OSError as error:
            if error.errno not in (errno.ECANCELED, errno.EAGAIN):
                raise
        self._arm(PERIOD)
        self._on_time()

    def close(self) -> None:
        """Say nothing more."""
        self._loop.remove(self._timer)
        os.close(self._timer)


class TimePort:
    """Both ends of the port `krun-timesync`: whatever the guest writes asks for the time, and each record answers.

    Before the guest asks, nothing is sent: a socket would keep it until it is wrong.
    """

    def __init__(self) -> None:
        self.on_ready: Callable[[], None] | None = None
        self._asked = False
        self._is_due = False

    def tell(self) -> None:
        """Tell the guest the time, if it has ever asked."""
        if self._asked:
            self._is_due = True
            if self.on_ready is not None:
                self.on_ready()

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Take the guest's question (`Sink`)."""
        self._asked = True
        self.tell()
        return sum(map(len, buffers))

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        """Give a record of this moment, if one is due (`Source`)."""
        if not self._is_due or sum(map(len, buffers)) < RECORD.size:
            return 0
        self._is_due = False
        return scatter(RECORD.pack(time.time_ns()), buffers)
