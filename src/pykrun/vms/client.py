"""Who comes to a VM's door."""

from __future__ import annotations

import _socket as socket
import os
import select

from pykrun.errors import EngineError, MissingError, PeerError, PykrunError, UsageError
from pykrun.vms.wire import VERSION, Channel, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

GONE: Message = {"event": "gone"}
_KINDS: dict[str, type[PykrunError]] = {
    kind.__name__: kind for kind in (PykrunError, UsageError, MissingError, EngineError, PeerError)
}


class Client:
    """One connection to a door: for one command, or for any number of questions about the VM.

    :param connection: a connected socket that blocks; closed with this.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._channel = Channel(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor that is readable when there is something to `receive`."""
        return self._channel.fileno()

    def ask(self, request: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Send a request; descriptors stay the caller's. That the VM is gone is told by `receive`."""
        try:
            self._channel.send({"version": VERSION, "request": request, **fields}, descriptors)
        except OSError:
            pass

    def receive(self, timeout: float | None = None) -> Message | None:
        """Return the next message, None when none comes in time; `GONE` after the last one.

        :param timeout: seconds, None for as long as it takes.
        :raise PykrunError: what was asked for was refused.
        """
        while (taken := self._channel.take()) is None:
            if self._channel.ended:
                return GONE
            poll = select.poll()
            poll.register(self._channel, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                return None
            self._channel.fetch()
        message, descriptors = taken
        for descriptor in descriptors:
            os.close(descriptor)
        if message.get("event") == "error":
            kind = _KINDS.get(str(message.get("kind")), PykrunError)
            raise kind(str(message.get("message")), str(message.get("hint", "")))
        return message

    def call(self, request: str, descriptors: Sequence[int] = (), **fields: Any) -> Message:
        """Ask, and wait for the answer.

        :raise PykrunError: it was refused.
        :raise EngineError: the VM is gone.
        """
        self.ask(request, descriptors, **fields)
        answer = self.receive()
        assert answer is not None
        if answer is GONE:
            raise EngineError("the VM has ended")
        return answer

    def close(self) -> None:
        """Go away: a command that runs for this connection is ended. Harmless when repeated."""
        self._channel.close()


def connect(name: str) -> Client:
    """Come to the door of a VM of this user.

    :raise MissingError: there is no such VM.
    :raise UsageError: the runtime directory is not this user's alone.
    """
    from pykrun.vms.registry import SOCKET, listed, open_folder  # who has a socket of his own needs none of it

    folder = open_folder(name)
    if folder is not None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")
            return Client(connection)
        except OSError:  # it has just ended
            connection.close()
        finally:
            os.close(folder)
    names = [one.name for one in listed()]
    hint = f"there are {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "no VM runs: pykrun ps"
    raise MissingError(f"there is no VM named {name!r}", hint)
