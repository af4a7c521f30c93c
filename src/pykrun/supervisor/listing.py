"""A VM in the runtime directory (pykrun.vms), and its door, which is made when the first one comes."""

from __future__ import annotations

import time

from pykrun.loop import IN, Loop
from pykrun.supervisor.facts import facts
from pykrun.vms import Entry, register

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from pykrun.request import Outcome
    from pykrun.supervisor.door import Door
    from pykrun.supervisor.vm import VirtualMachine

_CHANGES = ("started", "paused", "resumed")
"""Phases with which `state.json` changes."""


class Listing:
    """A `Remote` that lists the VM from `attach` to `close`.

    :param wanted: its name; empty for one that is made up, and for no listing where there can be none.
    """

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._entry: Entry | None = None
        self._started = time.time()
        self._loop: Loop | None = None
        self._vm: VirtualMachine | None = None
        self._door: Door | None = None

    @property
    def name(self) -> str:
        """What the VM is called; empty where it is not listed."""
        return "" if self._entry is None else self._entry.name

    def info(self) -> dict[str, Any]:
        """What is told of the VM, and is to be read in `state.json`."""
        return {"name": self.name, "started": self._started, **facts(self._vm)}

    def adopt(self, connection: socket.socket) -> None:
        """Take a connection of somebody who has a way of his own to us."""
        self._open().adopt(connection)

    def close(self) -> None:
        """List it no longer, and close the door."""
        if self._door is not None:
            self._door.close()
        if self._entry is not None:
            self._entry.close()
            self._entry = None

    # Remote

    def attach(self, loop: Loop, vm: VirtualMachine) -> None:
        """List it.

        :raise UsageError: the name is taken, or VMs cannot be listed and this one is to have that name.
        """
        self._loop, self._vm = loop, vm
        self._entry = register(self._wanted or None)
        if self._entry is not None:
            loop.add(self._entry.listener.fileno(), IN, self._on_first)
            self._entry.write(self.info())

    def detach(self) -> None:
        """The loop has ended."""
        if self._door is not None:
            self._door.detach()
        elif self._entry is not None and self._loop is not None:
            self._loop.remove(self._entry.listener.fileno())
        self._loop = self._vm = None

    def reached(self, phase: str, when: float) -> None:
        """Let others see it."""
        if self._door is not None:
            self._door.reached(phase, when)
        if phase in _CHANGES and self._entry is not None:
            self._entry.write(self.info())

    def input_unread(self) -> None:
        """It has no input."""

    def ended(self, outcome: Outcome) -> None:
        """Tell who waits."""
        if self._door is not None:
            self._door.ended(outcome)

    def _on_first(self, _events: int) -> None:
        self._open()

    def _open(self) -> Door:
        if self._door is None:
            from pykrun.supervisor.door import Door

            assert self._loop is not None
            listener = None
            if self._entry is not None:
                listener = self._entry.listener
                self._loop.remove(listener.fileno())
            self._door = Door(listener, info=self.info)
            self._door.attach(self._loop, self._vm)
        return self._door
