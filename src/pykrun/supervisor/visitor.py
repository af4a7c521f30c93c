"""One connection at a VM's door: what it asks, what it is answered, and the command that runs for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from errno import EAGAIN

from pykrun.errors import PeerError, PykrunError, UsageError
from pykrun.loop import IN, OUT, Loop, Timer
from pykrun.vms import Channel, Message
from pykrun.vms.wire import VERSION, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Running(Protocol):
        """A command in the guest, as its visitor drives it."""

        def signal(self, number: int) -> None:
            """Send it a signal."""

        def resize(self, rows: int, columns: int) -> None:
            """Its terminal has a new size."""

        def abandon(self) -> None:
            """Nobody waits for it any more: end it."""


SILENCE = 30.0
"""Seconds that a connection has for its first request, and for every other one from its first byte to its last."""
MOST_PENDING = 1 << 20
"""Bytes of answers that may wait for who does not read them."""
LAST_WORDS = 10.0
"""Seconds that the last answer has."""

Handler = Callable[["Visitor", Message, list[int]], None]
"""Does what a request asks. It answers by `Visitor.answer` (now or later), or raises the `PykrunError` that is the
answer; descriptors that it takes out of the list are its own to close."""


class Visitor:
    """Speaks with one client, and never waits for it.

    :param handle: called with each request; what it raises is the answer.
    :param on_end: called once, when the connection is closed.
    :ivar command: what runs in the guest for this connection.
    :ivar waits: it is to be told how the VM ends.
    """

    def __init__(self, connection: socket.socket, handle: Handler, on_end: Callable[[Visitor], None]) -> None:
        connection.setblocking(False)
        self.command: Running | None = None
        self.waits = False
        self.is_open = True
        self._channel = Channel(connection)
        self._number = connection.fileno()
        self._handle = handle
        self._on_end = on_end
        self._loop: Loop | None = None
        self._pending = bytearray()
        self._is_leaving = False
        self._timer: Timer | None = None

    def attach(self, loop: Loop) -> None:
        """Listen through that loop."""
        self._loop = loop
        loop.add(self._number, self._events(), self._on_event)
        self._set_timer(SILENCE)

    def detach(self) -> None:
        """Listen no more, for now."""
        self._forget_timer()
        if self._loop is not None:
            self._loop.remove(self._number)
            self._loop = None

    def answer(self, event: str, **fields: Any) -> None:
        """Send a message; who does not read many of them is left."""
        if not self.is_open:
            return
        self._pending += pack({"event": event, **fields})
        self._flush()
        if len(self._pending) > MOST_PENDING:
            self.close()

    def refuse(self, error: PykrunError) -> None:
        """Answer that it cannot be."""
        self.answer("error", kind=type(error).__name__, message=error.message, hint=error.hint)

    def leave(self) -> None:
        """Close the connection when the last answer is sent, or not taken in time."""
        self._is_leaving = True
        if not self._pending or self._loop is None:
            self.close()
        else:
            self._set_timer(LAST_WORDS)

    def close(self) -> None:
        """Close it now; the command that runs for it is ended. Harmless when repeated."""
        if not self.is_open:
            return
        self.is_open = False
        self.detach()
        self._channel.close()
        command, self.command = self.command, None
        if command is not None:
            command.abandon()
        self._on_end(self)

    def _events(self) -> int:
        return (0 if self._is_leaving else IN) | (OUT if self._pending else 0)

    def _on_event(self, events: int) -> None:
        try:
            if events & OUT:
                self._flush()
            if events & ~OUT and self.is_open:
                self._receive()
        except PeerError as error:  # it speaks another language
            self.refuse(error)
            self.leave()
        except OSError:
            self.close()

    def _receive(self) -> None:
        try:
            self._channel.fetch()
        except BlockingIOError:
            return
        while self.is_open and not self._is_leaving and (taken := self._channel.take()) is not None:
            self._forget_timer()
            self._obey(*taken)
        if self._channel.ended:
            self.close()
        elif self._channel.is_half and self._timer is None:
            self._set_timer(SILENCE)

    def _obey(self, message: Message, descriptors: list[int]) -> None:
        try:
            if message.get("version", VERSION) != VERSION:
                raise UsageError(f"this VM speaks version {VERSION} of the protocol, not {message['version']!r}")
            self._handle(self, message, descriptors)
        except PykrunError as error:
            self.refuse(error)
        except Exception as error:  # nobody's message may end the VM
            self.refuse(PykrunError(f"internal error: {error!r}", "please report it"))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _flush(self) -> None:
        while self._pending:
            try:
                sent = self._channel.connection.send(self._pending, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError as error:
                if error.errno != EAGAIN:
                    self.close()
                    return
                break
            del self._pending[:sent]
        if self._is_leaving and not self._pending:
            self.close()
        elif self._loop is not None:
            self._loop.modify(self._number, self._events())

    def _set_timer(self, seconds: float) -> None:
        self._forget_timer()
        if self._loop is not None:
            self._timer = self._loop.call_later(seconds, self.close)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
