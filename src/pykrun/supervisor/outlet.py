"""One output stream of a further command on the host: what its reader does not take waits here, within its credit."""

from __future__ import annotations

from collections.abc import Callable

from pykrun.errors import ControlError
from pykrun.loop import Loop
from pykrun.supervisor.streams import FdSink

WINDOW = 1 << 18
"""Bytes of a stream that the guest may send ahead of its reader; docs/control-port.md has the number."""


class Outlet:
    """Hands on what the guest sends, and gives it credit for what is gone.

    :param fd: where to, None: nobody reads it; it stays the caller's.
    :param on_credit: called with the number of bytes more that the guest may send.
    :param on_broken: called once when the reader is gone; what comes then is dropped.
    :param on_empty: called when nothing waits any more.
    """

    def __init__(
        self,
        loop: Loop,
        fd: int | None,
        *,
        on_credit: Callable[[int], None],
        on_broken: Callable[[], None],
        on_empty: Callable[[], None],
    ) -> None:
        self._sink = FdSink(loop, fd, on_broken=lambda error: on_broken(), on_count=lambda count: None)
        self._sink.on_ready = self._flush
        self._on_credit = on_credit
        self._on_empty = on_empty
        self._credit = WINDOW
        self._gone = 0
        self._kept = bytearray()

    @property
    def empty(self) -> bool:
        """Whether everything that came is with the reader."""
        return not self._kept

    def take(self, data: memoryview) -> None:
        """Bytes from the guest.

        :raise ControlError: it had no credit for them.
        """
        self._credit -= len(data)
        if self._credit < 0:
            raise ControlError("control port: output of a command beyond its credit")
        if self._sink.broken:
            return
        if not self._kept:
            data = self._write(data)
        self._kept += data
        self._settle()

    def _write(self, data: memoryview) -> memoryview:
        count = self._sink.write([data])
        self._gone += count
        return data[count:]

    def _flush(self) -> None:
        if self._kept:
            with memoryview(self._kept) as view, self._write(view) as rest:
                left = len(rest)
            del self._kept[: len(self._kept) - left]
        self._settle()
        if not self._kept:
            self._on_empty()

    def _settle(self) -> None:
        if self._gone >= WINDOW // 4 and not self._sink.broken:
            gone, self._gone = self._gone, 0
            self._credit += gone
            self._on_credit(gone)

    def close(self) -> None:
        """Drop what waits and what comes."""
        self._kept.clear()
        self._sink.close()
