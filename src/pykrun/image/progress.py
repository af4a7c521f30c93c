"""How far a long piece of work has come: one line on standard error, on a terminal only."""

from __future__ import annotations

import os
import time
from types import TracebackType

_FIRST, _EVERY = 0.5, 0.2
"""Seconds before the line appears, and between two versions of it."""


class Progress:
    """`with Progress("unpacking") as progress: progress.add(count)`; the line is gone at the end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bytes = 0
        self._next = time.monotonic() + _FIRST
        self._shown = False
        self._is_terminal = os.isatty(2)

    def add(self, count: int) -> None:
        """So many more bytes are done."""
        self._bytes += count
        if self._is_terminal and time.monotonic() >= self._next:
            self._write(f"\r\x1b[Kpykrun: {self._what}: {self._bytes >> 20} MiB")
            self._next = time.monotonic() + _EVERY
            self._shown = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        try:
            os.write(2, text.encode())
        except OSError:
            self._is_terminal = False
