"""What stands at the host's end of a virtio-console port: a sink for what the guest writes, a source for what it reads.

The device (or, for QEMU, the socket behind its own device) knows nothing of standard output or of the control
protocol; it moves bytes between its ring and these two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Sink(Protocol):
    """Takes the bytes that the guest writes to a port."""

    on_ready: Callable[[], None] | None
    """Set by the device; called when bytes are taken again after `write` took fewer than offered."""

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Take bytes without blocking; return how many were taken, counted from the first buffer's start.

        A sink whose reader is gone takes everything and drops it. The buffers are guest memory: they are valid, and
        their content may be trusted to be copied, only during this call.
        """


class Source(Protocol):
    """Gives the bytes that the guest reads from a port."""

    on_ready: Callable[[], None] | None
    """Set by the device; called when there are bytes again after `read_into` returned 0."""

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers from the start without blocking; return the number of bytes, 0 when there are none now."""


class NoSink:
    """Drops what the guest writes to a port that is only read."""

    def __init__(self) -> None:
        self.on_ready: Callable[[], None] | None = None

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Take everything."""
        return sum(map(len, buffers))


class NoSource:
    """Has nothing for a port that is only written."""

    def __init__(self) -> None:
        self.on_ready: Callable[[], None] | None = None

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        """Give nothing."""
        return 0
