"""What a machine has beside its root, its disks and its workload's streams: further consoles, serial lines, vsock,
network cards that are plugged into something of the caller's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pykrun.loop import Loop
from pykrun.machine import Machine
from pykrun.supervisor.plan import Plan
from pykrun.supervisor.wiring import Wiring

if TYPE_CHECKING:
    from pykrun.net.link import Link
    from pykrun.supervisor.consoles import Consoles
    from pykrun.supervisor.vsock import VsockPorts
    from pykrun.virtio.net import NetDevice

PATIENCE = 1.0
"""Seconds that readers of further consoles have for what is left when the engine has ended."""


class Devices:
    """The host's end of all of them. Sockets that others may connect to are there before the guest boots.

    :param on_end: called when one more of the consoles has nothing left to hand on.
    :param on_failure: called with a reason when a network is gone.
    :raise UsageError: a socket cannot be made, or not be connected to.
    """

    def __init__(
        self,
        loop: Loop,
        plan: Plan,
        machine: Machine,
        on_end: Callable[[], None],
        on_failure: Callable[[str], None],
    ) -> None:
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
        self._cards: list[NetDevice] = []
        first = len(machine.networks) - len(plan.links)
        for index, link in enumerate(plan.links):
            self._plug_in(link, first + index, machine, on_failure)

    def _plug_in(self, link: Link, index: int, machine: Machine, on_failure: Callable[[str], None]) -> None:
        from pykrun.net.link import plug_in
        from pykrun.virtio.net import NetDevice

        def on_end(why: str) -> None:
            on_failure(f"eth{index}'s {link.kind} link: {why or 'its other side hung up'}")

        cable = plug_in(self._loop, link, on_end)
        self._stack.callback(cable.close)
        self._cards.append(NetDevice(cable, machine.networks[index].mac, link.mtu))

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
        for index, card in enumerate(self._cards, len(machine.networks) - len(self._cards)):
            wiring.network(index, card)

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
