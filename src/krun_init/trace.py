"""KRUN_INIT_TRACE: how long each step of the boot took."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    from krun_init.log import Log

    Arguments = ParamSpec("Arguments")
    Result = TypeVar("Result")

_now = time.monotonic_ns


class Trace:
    """Runs the steps of the boot; remembers, when asked to, how long each took."""

    __slots__ = ("_last", "_times")

    def __init__(self, wanted: bool) -> None:
        self._times: list[tuple[str, int]] | None = None
        self._last = 0
        if wanted:
            self._times = [("since the kernel started", time.clock_gettime_ns(time.CLOCK_BOOTTIME))]
            self._last = _now()

    def run(self, step: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Call the step."""
        result = step(*args, **kwargs)
        if self._times is not None:
            self.mark(f"{step.__module__.rpartition('.')[2]}.{step.__name__}")
        return result

    def mark(self, name: str) -> None:
        """What came since the last mark was called so."""
        if self._times is not None:
            now = _now()
            self._times.append((name, now - self._last))
            self._last = now

    def report(self, log: Log) -> None:
        """Write all times as lines of the log, in microseconds."""
        for name, nanoseconds in self._times or ():
            log.line(3, f"{nanoseconds // 1000:8d} us  {name}")
        self._times = None
