"""What a machine has beside its root, its disks and its workload's streams: further consoles, serial lines, vsock."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pykrun.loop import Loop
from pykrun.machine import Machine
from pykrun.supervisor.plan import Plan
from pykrun.supervisor.wiring import Wiring

if TYPE_CHECKING:
    from pykrun.supervisor.consoles import Consoles
    from pykrun.supervisor.vsock import VsockPorts

PATIENCE = 1.0
"""Seconds that readers of further consoles have for what is left when the engine has ended."""


class Devices:
    """The host's end of all of them. Sockets that others may connect to are there before the guest boots.

    :param on_end: called when one more of the consoles has nothing left to hand on.
    :raise UsageError: a socket cannot be made.
    """

    def __init__(self, loop: Loop, plan: Plan, on_end: Callable[[], None]) -> None:
        self._loop = loop
        self._plan = plan
        self._on_end = on_end
        self._stack = ExitStack()
        self._consoles: Consoles | None = None
        self._vsock: VsockPorts | None = None
        self._forgotten = False
        if plan.vsock:
            from pykrun.supervisor.vsock import VsockPorts

            self._vsock = VsockPorts(loop, plan.vsock)
            self._stack.callback(self._vsock.close)

    def serve(self, wiring: Wiring, machine: Machine) -> None:
        """Serve them; the engine runs."""
        if machine.consoles or machine.serials:
            from pykrun.supervisor.consoles import Consoles

            serials = self._plan.serials[: machine.serials]
            self._consoles = Consoles(self._loop, machine.consoles, serials, self._on_end)
            self._stack.callback(self._consoles.close)
            wiring.consoles(self._consoles)
        if self._vsock is not None:
            wiring.vsock(self._vsock.device)

    def resized(self) -> None:
        """A window may have changed."""
        if self._consoles is not None:
            self._consoles.resized()

    def drain(self) -> None:
        """The engine has ended: hand on what it left, for a while."""
        if self._consoles is not None:
            self._consoles.drain()
            self._loop.call_later(PATIENCE, self._forget)

    def _forget(self) -> None:
        self._forgotten = True
        self._on_end()

    @property
    def drained(self) -> bool:
        """Whether nothing is left, or its readers had their time."""
        return self._forgotten or self._consoles is None or self._consoles.drained

    def close(self) -> None:
        """Give everything back."""
        self._stack.close()
