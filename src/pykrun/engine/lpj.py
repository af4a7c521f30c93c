"""The delay-loop calibration of User Mode Linux: half of its boot time, and the same each time on a machine.

It is measured once per kernel and machine, by a boot that needs no root, and kept in the cache directory.
"""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

from pykrun.host.cache import cache_directory, stamp, write_atomic
from pykrun.machine import Kernel, Machine

_REPORT = b"(lpj="
_SECONDS = 10.0


def known(image: Path) -> int | None:
    """Return the loops per jiffy of a kernel on this machine; measure them if need be, None when that fails."""
    kept = cache_directory() / "lpj" / f"{os.uname().nodename}-{stamp(image)}"
    try:
        return int(kept.read_text())
    except (OSError, ValueError):
        pass
    value = measure(image)
    if value is not None:
        try:
            write_atomic(kept, (str(value).encode(),))
        except OSError:
            pass  # no cache: measured again next time
    return value


def measure(image: Path) -> int | None:
    """Boot the kernel up to its calibration and return what it found."""
    from pykrun.engine import uml

    kernel = Kernel(image=image, modules=None, release="")
    machine = Machine(kernel=kernel, initramfs=None, shares=(), memory_mib=32, verbose=True)
    running = uml.launch(machine, measure_lpj=False)
    deadline = time.monotonic() + _SECONDS
    seen = b""
    poll = select.poll()
    poll.register(running.console, select.POLLIN)
    try:
        while (remaining := deadline - time.monotonic()) > 0:
            poll.poll(remaining * 1000)
            chunk = os.read(running.console, 65536)
            seen += chunk
            digits, end, _ = seen.partition(_REPORT)[2].partition(b")")
            if end and digits.isdigit():
                return int(digits)
            if not chunk:
                return None
    except BlockingIOError:
        pass
    finally:
        running.close()
    return None
