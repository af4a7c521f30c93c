"""The processes of the machine, as PID 1 sees them."""

from __future__ import annotations

import posix
import time

_SIGKILL = 9
_REAP_SECONDS = 2.0


def end_all() -> None:
    """Kill every other process and reap it, within a bound.

    An orphan becomes a child of PID 1, so without children nobody else is there.
    """
    deadline = 0.0
    try:
        while True:
            if posix.waitpid(-1, posix.WNOHANG)[0]:
                continue
            now = time.monotonic()
            deadline = deadline or now + _REAP_SECONDS
            if now >= deadline:
                return
            posix.kill(-1, _SIGKILL)
            time.sleep(0.001)
    except OSError:
        return
