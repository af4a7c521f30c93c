"""The supervisor's door (docs/exec.md), with one request more: `start`."""

from __future__ import annotations

import _socket
import os
import socket

from pykrun.errors import EngineError, PykrunError, UsageError
from pykrun.loop import Loop
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

    :param folder: where the socket is to be.
    :param on_status: called with what the container is from now on.
    """

    def __init__(self, folder: str, on_status: Callable[[str], None]) -> None:
        self._on_status = on_status
        self._starter: Visitor | None = None
        self._is_waiting = True
        self._loop = Loop()
        self.door = Door(_listen(folder), {"start": self._start})

    def wait_for_start(self) -> None:
        """Answer until somebody says that the container is to start."""
        self.door.attach(self._loop, None)
        if self._is_waiting:
            self._loop.run()
        self.door.detach()
        self._loop.close()

    def _start(self, visitor: Visitor, _message: Message, _descriptors: list[int]) -> None:
        if not self._is_waiting:
            raise UsageError("cannot start an already running container")
        self._is_waiting = False
        self._starter = visitor
        self._loop.stop()

    def attach(self, loop: Loop, vm: VirtualMachine) -> None:
        """The door listens (`Remote`)."""

    def detach(self) -> None:
        """Nothing to do (`Remote`)."""

    def reached(self, phase: str, _when: float) -> None:
        """Tell who waits for the start; keep what the container is (`Remote`)."""
        status = {"started": "running", "paused": "paused", "resumed": "running"}.get(phase)
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
