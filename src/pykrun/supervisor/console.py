"""The kernel's console: kept in part for error messages, written whole to the boot log."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from pykrun.engine import PANIC
from pykrun.errors import UsageError
from pykrun.loop import IN, Loop

KEPT = 32768
"""Bytes of the end that are kept for messages."""
SHOWN = 12
"""Lines of it that a message shows."""
LEFT_BEHIND = 16
"""Reads at the end; a pipe holds one."""
BEFORE_PANIC = 4
"""Lines that are shown from before a panic: what led to it (an oops, a process that ended)."""


def printable(text: str) -> str:
    """The text with everything replaced that could drive a terminal: it comes from the guest."""
    return "".join(char if char.isprintable() or "\udc80" <= char <= "\udcff" else " " for char in text)


LOG_LINE, LOG_TEXT = 1024, 65536
"""Characters of one line and of all lines of the guest's log that are kept: more than init ever has to say."""


class GuestLog:
    """What the guest's init has to say, as far as there is room for it.

    :ivar lines: level and text of each.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self._room = LOG_TEXT

    def add(self, level: int, text: str) -> None:
        """Keep one more."""
        self._room -= len(text[:LOG_LINE]) + 1
        if self._room >= 0:
            self.lines.append((level, printable(text[:LOG_LINE])))


class BootLog:
    """Reads the engine's console descriptor, non-blocking and owned by the engine's `Running`, until it ends.

    It is a sink too (`pykrun.ports.Sink`), for a console of the guest that nobody else hears.

    :param path: file that receives everything, or None.
    :param option: what asked for it, for messages.
    :raise UsageError: the file cannot be written.
    """

    def __init__(self, path: str | None, option: str = "--boot-log") -> None:
        self.on_ready: Callable[[], None] | None = None
        self._tail = bytearray()
        self._file = -1
        self._loop: Loop | None = None
        self._fd = -1
        if path is not None:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
                if not stat.S_ISREG(os.fstat(self._file).st_mode):
                    os.set_blocking(self._file, False)  # nobody who reads slowly holds the VM up
            except OSError as error:
                raise UsageError(f"{option}: cannot write {path!r}: {error.strerror}") from None

    def attach(self, loop: Loop, fd: int) -> None:
        """Read `fd` whenever it has something."""
        self._loop, self._fd = loop, fd
        loop.add(fd, IN, self._on_event)

    def _on_event(self, _events: int) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._keep(data)
        elif self._loop is not None:
            self._loop.remove(self._fd)

    def drain(self) -> None:
        """Read what the engine left behind; never waits, and not for ever when the engine still prints."""
        for _ in range(LEFT_BEHIND):
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                return
            if not data:
                return
            self._keep(data)

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Take what the guest writes to its console (`Sink`)."""
        data = b"".join(buffers)
        self._keep(data)
        return len(data)

    def _keep(self, data: bytes) -> None:
        self._tail += data
        del self._tail[:-KEPT]
        while data and self._file >= 0:
            try:
                data = data[os.write(self._file, data) :]
            except BlockingIOError:  # a pipe or terminal whose reader is slow: it misses this
                return
            except OSError:  # disk full: the run goes on, the log ends
                os.close(self._file)
                self._file = -1

    @property
    def text(self) -> bytes:
        """The last bytes, as they came."""
        return bytes(self._tail)

    def last_lines(self, count: int = SHOWN) -> list[str]:
        """The last lines that are not empty, or those around a panic's first, which a long call trace follows.

        They come without control characters: a guest must not drive the terminal.
        """
        text = self.text.replace(b"\r", b"\n").decode(errors="replace")
        lines = [printable(line).strip() for line in text.split("\n")]
        lines = [line for line in lines if line]
        panic = next((index for index, line in enumerate(lines) if PANIC.decode() in line), None)
        return lines[-count:] if panic is None else lines[max(0, panic - BEFORE_PANIC) :][:count]

    def detach(self) -> None:
        """Leave the loop; to be called before the engine's `Running` closes the descriptor."""
        if self._loop is not None:
            self._loop.remove(self._fd)
            self._loop = None

    def close(self) -> None:
        """Leave the loop and close the file."""
        self.detach()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
