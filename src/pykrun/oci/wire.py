"""What is said to a supervisor through its socket: one message there, one back (`pykrun.shim.wire`)."""

from __future__ import annotations

import _socket as socket

from pykrun.errors import EngineError, UsageError
from pykrun.shim.wire import Plain, Receiver, send

START, SIGNAL = "start", "signal"
OK, FAILED = "ok", "failed"


def ask(path: str, message: Plain) -> None:
    """Ask the supervisor that listens there, and wait until it has done that.

    :raise EngineError: it has ended.
    :raise UsageError: it says that this cannot be.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
        send(connection, message)
        answer(connection)
    except OSError as error:
        raise EngineError(f"the container's supervisor does not answer: {error.strerror}") from None
    finally:
        connection.close()


def answer(connection: socket.socket) -> None:
    """Wait for the answer on a connection.

    :raise EngineError: the other side has ended.
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
