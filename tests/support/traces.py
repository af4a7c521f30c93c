"""What a VM might leave on the machine outside its own folders: mounts, shared memory, sockets."""

from __future__ import annotations

import time
from pathlib import Path

WORD = "pykrun"


def traces() -> set[str]:
    """Everything on this machine that carries our name."""
    found = {f"mount: {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if WORD in line}
    for line in Path("/proc/net/unix").read_text().splitlines():
        path = line.split()[-1]
        if WORD in path:
            found.add(f"socket: {path}")
    for folder in (Path("/dev/shm"), Path("/run")):
        if folder.is_dir():
            found.update(f"file: {path}" for path in folder.iterdir() if WORD in path.name)
    return found


def new_traces(known: set[str], grace: float) -> set[str]:
    """The traces that are not in `known` and still there after `grace` seconds."""
    end = time.monotonic() + grace
    while (left := traces() - known) and time.monotonic() < end:
        time.sleep(0.02)
    return left
