"""What fuzzers share: blocks of inputs with a seed each, a bound in time, and the size of the process."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

BLOCK = 1000
"""Inputs that share one seed: a failure names the block, and the block alone brings it back."""

SEED = "pykrun"


def blocks(inputs: int) -> Iterator[tuple[str, random.Random]]:
    """(name, source of chance) of each block of `BLOCK` inputs."""
    for number in range(-(-inputs // BLOCK)):
        name = f"{SEED}-{number}"
        yield name, random.Random(name)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Fail when the body hangs."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still busy after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def resident() -> int:
    """Bytes of memory that this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
