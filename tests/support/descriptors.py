"""The descriptors that this process has open."""

from __future__ import annotations

import gc
import os


def open_descriptors() -> dict[int, str]:
    """What each of them is; those that only garbage holds are closed first."""
    gc.collect()
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # that of the listing itself
            continue
    return found
