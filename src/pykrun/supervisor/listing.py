"""The door of a VM that is listed in the runtime directory (pykrun.vms)."""

from __future__ import annotations

import time

from pykrun import vms
from pykrun.loop import Loop
from pykrun.supervisor.door import Door

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykrun.supervisor.vm import VirtualMachine

_CHANGES = ("started", "paused", "resumed")
"""Phases with which `state.json` changes."""


class ListedDoor(Door):
    """Lists the VM from `attach` to `close`.

    :param wanted: its name; empty for one that is made up, and for no listing where there can be none.
    """

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self._wanted = wanted
        self._entry: vms.Entry | None = None
        self._started = time.time()

    @property
    def name(self) -> str:
        """What the VM is called; empty where it is not listed."""
        return "" if self._entry is None else self._entry.name

    def attach(self, loop: Loop, vm: VirtualMachine | None) -> None:
        """List it, and serve (`Remote`).

        :raise UsageError: the name is taken, or VMs cannot be listed and this one is to have that name.
        """
        if self._entry is None:
            self._entry = vms.register(self._wanted or None)
            if self._entry is not None:
                self._listener = self._entry.listener
        super().attach(loop, vm)
        self._publish()

    def reached(self, phase: str, when: float) -> None:
        """Let others see it (`Remote`)."""
        super().reached(phase, when)
        if phase in _CHANGES:
            self._publish()

    def info(self) -> dict[str, Any]:
        """What is told of the VM, and is to be read in `state.json`."""
        return {"name": self.name, "started": self._started, **super().info()}

    def _publish(self) -> None:
        if self._entry is not None and self.vm is not None:
            self._entry.write(self.info())

    def close(self) -> None:
        """List it no longer, and close the door."""
        if self._entry is not None:
            self._entry.close()
            self._entry = None
        super().close()
