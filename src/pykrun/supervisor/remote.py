"""Who drives a VM from elsewhere, through its supervisor's loop."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from pykrun.loop import Loop
    from pykrun.request import Outcome
    from pykrun.supervisor.vm import VirtualMachine
else:
    Protocol = object


class Remote(Protocol):
    """One of them: it hears of the run, and may call the VM's public methods."""

    def attach(self, loop: Loop, vm: VirtualMachine) -> None:
        """The loop is about to run: listen through it from now on."""

    def detach(self) -> None:
        """The loop has ended."""

    def reached(self, phase: str, when: float) -> None:
        """A phase of the run was reached, at that monotonic time; also `paused` and `resumed`, any number of times."""

    def input_unread(self) -> None:
        """Nobody reads the plan's standard input any more: a descriptor that is only ours may be closed."""

    def ended(self, outcome: Outcome) -> None:
        """The VM is gone, and this is how it went; before `detach`, and not where it never started."""


class Remotes:
    """Any number of them, as one."""

    def __init__(self, remotes: tuple[Remote, ...]) -> None:
        self._remotes = remotes

    def add(self, remote: Remote) -> None:
        """Let one more drive it, who hears of everything before the others do."""
        self._remotes = (remote, *self._remotes)

    def attach(self, loop: Loop, vm: VirtualMachine) -> None:
        """Have each listen."""
        for remote in self._remotes:
            remote.attach(loop, vm)

    def detach(self) -> None:
        """The loop has ended."""
        for remote in self._remotes:
            remote.detach()

    def reached(self, phase: str, when: float) -> None:
        """Tell each."""
        for remote in self._remotes:
            remote.reached(phase, when)

    def input_unread(self) -> None:
        """Tell each."""
        for remote in self._remotes:
            remote.input_unread()

    def ended(self, outcome: Outcome) -> None:
        """Tell each."""
        for remote in self._remotes:
            remote.ended(outcome)
