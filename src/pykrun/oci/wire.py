"""The way to a container's supervisor: the answer to who creates it, and its door."""

from __future__ import annotations

import _socket as socket
import os

from pykrun.errors import EngineError, UsageError
from pykrun.shim.wire import Receiver
from pykrun.vms import Client

OK, FAILED = "ok", "failed"


def knock(folder: str) -> Client:
    """Come to the door of the container whose folder that is.

    :raise EngineError: its supervisor has ended.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptor = -1
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        connection.connect(f"/proc/self/fd/{descriptor}/socket")
    except OSError as error:
        connection.close()
        raise EngineError(f"the container's supervisor does not answer: {error.strerror}") from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return Client(connection)


def answer(connection: socket.socket) -> None:
    """Wait for the supervisor's word on the connection over which it was told what to create.

    :raise EngineError: it has ended.
    :raise UsageError: it says that this cannot be.
    """
    receiver = Receiver(connection)
    while (taken := receiver.take()) is None:
        if receiver.ended:
            raise EngineError("the container's supervisor ended before it answered")
        receiver.fetch()
    match taken[0]:
        case (kind, str(message), str(hint)) if kind == FAILED:
            raise UsageError(message, hint)
