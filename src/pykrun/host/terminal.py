"""The caller's terminal while a guest's program has it: raw, and as it was afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

ESCAPE = 0x1D
"""Ctrl-]. Three of them within a second end the VM, whatever the guest does (systemd-nspawn has it so)."""


class Escape:
    """Counts the escape key in what goes to the guest.

    :param on_escape: called when it was pressed three times within a second.
    """

    def __init__(self, on_escape: Callable[[], None]) -> None:
        self._on_escape = on_escape
        self._pressed: list[float] = []

    def __call__(self, buffers: Sequence[memoryview], count: int) -> None:
        """Look at the first `count` bytes of the buffers."""
        for buffer in buffers:
            for byte in buffer[:count]:
                if byte == ESCAPE:
                    self._press(time.monotonic())
            count -= len(buffer)
            if count <= 0:
                return

    def _press(self, now: float) -> None:
        self._pressed = [*(before for before in self._pressed if now - before < 1.0), now]
        if len(self._pressed) >= 3:
            self._on_escape()


class Terminal:
    """Puts the terminal on `stdin` into raw mode and knows the window's size; harmless on anything else."""

    def __init__(self, stdin: int | None, stdout: int | None) -> None:
        self._input = stdin if stdin is not None and os.isatty(stdin) else None
        self._output = stdout if stdout is not None and os.isatty(stdout) else self._input
        self._saved: list[int | list[bytes | int]] | None = None

    def raw(self) -> None:
        """Every key goes to the guest: no echo, no lines, no signals, as cfmakeraw(3) does. Harmless when repeated."""
        if self._input is None or self._saved is not None:  # what is saved is the caller's, not what we made of it
            return
        import termios  # most commands have no terminal

        self._saved = termios.tcgetattr(self._input)
        mode = termios.tcgetattr(self._input)
        mode[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        termios.tcsetattr(self._input, termios.TCSADRAIN, mode)

    def restore(self) -> None:
        """Put the terminal back as it was; harmless when it never was raw, or hung up."""
        if self._input is not None and self._saved is not None:
            import termios

            try:
                termios.tcsetattr(self._input, termios.TCSADRAIN, self._saved)
            except termios.error:
                pass
            self._saved = None

    def size(self) -> tuple[int, int] | None:
        """Rows and columns, None when there is no terminal or it does not know."""
        if self._output is None:
            return None
        try:
            columns, rows = os.get_terminal_size(self._output)
        except OSError:
            return None
        return (rows, columns) if rows and columns else None
