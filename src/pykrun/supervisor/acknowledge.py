"""The answer to COUNTS: everything that the workload wrote has been handed on, or not yet (docs/control-port.md)."""

from __future__ import annotations

from pykrun.loop import Loop, Timer
from pykrun.supervisor.control import Control

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ALIVE = 1.0
"""Seconds between two DRAINING frames; the guest gives up after five of silence."""


class Acknowledgement:
    """Says ACK once, and DRAINING now and then before.

    :param handed_on: whether so many bytes of output and errors have been handed on.
    """

    def __init__(self, loop: Loop, control: Control, handed_on: Callable[[int, int], bool]) -> None:
        self._loop = loop
        self._control = control
        self._handed_on = handed_on
        self._counts: tuple[int, int] | None = None
        self._timer: Timer | None = None

    def expect(self, stdout: int, stderr: int) -> None:
        """The workload has ended, after so many bytes."""
        self._counts = (stdout, stderr)
        self.look()

    def look(self) -> None:
        """More may have been handed on."""
        if self._counts is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._handed_on(*self._counts):
            self._counts = None
            self._control.ack()
        else:
            self._control.draining()
            self._timer = self._loop.call_later(ALIVE, self.look)
