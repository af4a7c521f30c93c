"""Stands between a front end and somebody else's back end, and hides features that the back end gets wrong.

Only messages go through here. Once a device is set up its rings are shared memory and its notifications eventfds, which
the two have handed to each other: nothing of a request is seen.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Callable

from pykrun.errors import EngineError, PykrunError, VhostUserError
from pykrun.loop import IN, Loop
from pykrun.vhost_user import messages as wire
from pykrun.vhost_user.connection import Connection, Request

_AT_ONCE = 64 * 1024


class Relay:
    """Hands messages on between two connections until either ends.

    :param front: the front end's connection, `back` the back end's; both become the relay's.
    :param hidden: device feature bits that the back end must not seem to have.
    :param on_close: called once when it has ended other than by `close`: with None when the front end went, with a
        `VhostUserError` when somebody broke the protocol, with an `EngineError` when the back end went.
    """

    def __init__(
        self,
        loop: Loop,
        front: socket.socket,
        back: socket.socket,
        *,
        hidden: int,
        on_close: Callable[[PykrunError | None], None],
    ) -> None:
        back.setblocking(False)
        self._loop = loop
        self._front = Connection(front)
        self._back = back
        self._hidden = hidden
        self._on_close = on_close
        self._replies = bytearray()
        self._closed = False
        loop.add(self._front.fileno(), IN, self._requests)
        loop.add(back.fileno(), IN, self._answers)

    def close(self) -> None:
        """Close both connections. Harmless when called again."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove(self._front.fileno())
        self._loop.remove(self._back.fileno())
        self._front.close()
        self._back.close()

    def _end(self, error: PykrunError | None) -> None:
        if not self._closed:
            self.close()
            self._on_close(error)

    def _requests(self, _events: int) -> None:
        try:
            while not self._closed and (request := self._front.receive()) is not None:
                try:
                    self._hand_on(request)
                finally:
                    request.close()
        except (EOFError, OSError):
            self._end(None)
        except VhostUserError as error:
            self._end(error)

    def _hand_on(self, request: Request) -> None:
        flags = wire.VERSION | (wire.FLAG_NEED_REPLY if request.need_reply else 0)
        message = wire.HEADER.pack(request.code, flags, len(request.payload)) + request.payload
        descriptors = array.array("i", request.descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
        try:
            sent = self._back.sendmsg([message], ancillary, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        if sent != len(message):
            raise VhostUserError("the back end does not read its requests")

    def _answers(self, _events: int) -> None:
        try:
            content = self._back.recv(_AT_ONCE)
            if not content:
                raise EOFError
            self._replies += content
            while self._reply():
                pass
        except BlockingIOError:
            pass
        except EOFError:  # the front end hangs; only the back end's fault or end closes its side first
            self._end(EngineError("its server hung up"))
        except OSError as error:
            self._end(EngineError(f"its server hung up: {error.strerror}"))
        except VhostUserError as error:
            self._end(error)

    def _reply(self) -> bool:
        """Hand one reply on; return False when there is no complete one."""
        if len(self._replies) < wire.HEADER.size:
            return False
        code, _flags, size = wire.HEADER.unpack_from(self._replies)
        if size > wire.MAX_PAYLOAD:
            raise VhostUserError(f"reply {code} with {size} bytes, more than {wire.MAX_PAYLOAD}")
        end = wire.HEADER.size + size
        if len(self._replies) < end:
            return False
        payload = bytes(self._replies[wire.HEADER.size : end])
        del self._replies[:end]
        if code == wire.GET_FEATURES and size == wire.U64.size:
            payload = wire.U64.pack(wire.U64.unpack(payload)[0] & ~self._hidden)
        try:
            self._front.send(code, payload)
        except EOFError:
            self._end(None)
        return not self._closed
