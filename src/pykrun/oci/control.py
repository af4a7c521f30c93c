"""The supervisor's door (docs/exec.md), with one request more: `start`."""

from __future__ import annotations

import _socket
import os
import socket

from pykrun.errors import EngineError, PykrunError, UsageError
from pykrun.loop import Loop
from pykrun.oci.state import CREATED, PAUSED, RUNNING
from pykrun.supervisor.door import Door

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykrun.request import Outcome
    from pykrun.supervisor import VirtualMachine
    from pykrun.supervisor.visitor import Visitor
    from pykrun.vms import Message


class Control:
    """Who asks for the start, and what it is told. A `Remote` of the VM, beside its `door`.

    The VM boots as soon as the container is created, and holds the program back until its start.

    :param folder: where the socket is to be.
    :param on_status: called with what the container is from now on.
    :param on_served: called when all processes that serve the VM have been started.
    """

    def __init__(self, folder: str, on_status: Callable[[str], None], on_served: Callable[[], None]) -> None:
        self._on_status = on_status
        self._on_served = on_served
        self._starter: Visitor | None = None
        self._is_waiting = True
        self._vm: VirtualMachine | None = None
        self.door = Door(_listen(folder), {"start": self._start})

    def _start(self, visitor: Visitor, _message: Message, _descriptors: list[int]) -> None:
        if not self._is_waiting:
            raise UsageError("cannot start an already running container")
        self._is_waiting = False
        self._starter = visitor
        assert self._vm is not None, "the door listens only while it runs"
        self._vm.begin()

    def attach(self, _loop: Loop, vm: VirtualMachine) -> None:
        """The door listens (`Remote`)."""
        self._vm = vm

    def detach(self) -> None:
        """The VM is gone (`Remote`)."""
        self._vm = None

    def reached(self, phase: str, _when: float) -> None:
        """Tell who waits for the start; keep what the container is (`Remote`)."""
        if phase == "init":
            try:
                self._on_served()
            except OSError:
                pass  # it is of use to `podman cp` alone
        status = {"launched": CREATED, "started": RUNNING, "paused": PAUSED, "resumed": RUNNING}.get(phase)
        if status is not None:
            self._on_status(status)
        if phase == "started" and self._starter is not None:
            self._starter.answer("done")
            self._starter = None

    def input_unread(self) -> None:
        """Standard input is the container's alone: close it, so that who writes to it hears of that (`Remote`)."""
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0, inheritable=False)
        os.close(null)

    def ended(self, outcome: Outcome) -> None:
        """It ended; `failed` tells who still waits (`Remote`)."""

    def failed(self, error: PykrunError) -> bool:
        """The container has ended before it ran; whether somebody heard."""
        starter, self._starter = self._starter, None
        if starter is None:
            return False
        starter.refuse(error)
        return True


def _listen(folder: str) -> socket.socket:
    """A listening socket in a folder, whose path may be longer than an address has room for.

    :raise EngineError: it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/socket")
        listener.listen(_socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        raise EngineError(f"cannot listen in {folder!r}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    return listener
