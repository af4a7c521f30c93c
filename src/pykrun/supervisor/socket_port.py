"""A port that the engine itself provides (QEMU's console ports, serial lines): one stream socket between it and a sink
and a source."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from pykrun.buffers import skip
from pykrun.loop import HANGUP, IN, OUT, Loop
from pykrun.ports import Sink, Source

CHUNK = 65536


class BufferedSink:
    """Takes for a slow sink what cannot wait: QEMU drops what a console's socket does not take at once.

    :param limit: bytes that are kept; what comes beyond is left to the device.
    :param on_empty: called when everything that was kept has been handed on.
    :param lossy: what comes beyond the limit is taken and dropped.
    """

    def __init__(self, sink: Sink, limit: int, on_empty: Callable[[], None], *, lossy: bool = False) -> None:
        self.on_ready: Callable[[], None] | None = None
        self._sink = sink
        self._limit = limit
        self._on_empty = on_empty
        self._lossy = lossy
        self._kept = bytearray()
        sink.on_ready = self._flush

    @property
    def empty(self) -> bool:
        """Whether nothing is kept."""
        return not self._kept

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Hand on what goes, keep the rest as long as there is room (`Sink`)."""
        taken = 0 if self._kept else self._sink.write(buffers)
        for buffer in skip(buffers, taken):
            part = buffer[: self._limit - len(self._kept)]
            self._kept += part
            taken += len(part)
        return sum(map(len, buffers)) if self._lossy else taken

    def _flush(self) -> None:
        while self._kept:
            with memoryview(self._kept) as view:
                count = self._sink.write([view])
            if not count:
                return
            del self._kept[:count]
        if self.on_ready is not None:
            self.on_ready()
        self._on_empty()


class SocketPort:
    """Moves bytes between a connected, non-blocking stream socket and the two ends of a port.

    :param on_end: called once when the engine closed its side and everything it had sent was handed on.
    """

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        sink: Sink,
        source: Source,
        *,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        connection.setblocking(False)
        self.ended = False
        self._loop = loop
        self._socket = connection
        self._sink = sink
        self._source = source
        self._on_end = on_end
        self._input_ended = False
        self._inward = memoryview(bytearray(CHUNK))
        self._offered = self._inward[:0]
        self._outward = memoryview(bytearray(CHUNK))
        self._unsent = self._outward[:0]
        self._events = IN
        sink.on_ready = self._resume_sink
        source.on_ready = self._pump_source
        loop.add(connection.fileno(), IN, self._on_event)
        self._pump_source()

    def _on_event(self, events: int) -> None:
        if events & OUT:
            self._pump_source()
        if events & (IN | HANGUP):
            self._receive()

    def _watch(self) -> None:
        """Wait for room when something is unsent, for bytes when the sink has taken all that came."""
        if self.ended:
            return
        events = (0 if self._offered else IN) | (OUT if self._unsent else 0)
        if events != self._events:
            self._events = events
            # With nothing to wait for, a hang-up must not spin the loop: the descriptor leaves it.
            if events:
                self._loop.remove(self._socket.fileno())
                self._loop.add(self._socket.fileno(), events, self._on_event)
            else:
                self._loop.remove(self._socket.fileno())

    def _receive(self) -> None:
        while not self._offered and not self.ended:
            try:
                count = self._socket.recv_into(self._inward)
            except BlockingIOError:
                break
            except OSError:  # ECONNRESET: the engine was killed
                count = 0
            if count == 0:
                self._end()
                return
            self._offered = self._inward[:count]
            self._offer()
        self._watch()

    def _offer(self) -> None:
        self._offered = self._offered[self._sink.write([self._offered]) :]

    def _resume_sink(self) -> None:
        if self._offered:
            self._offer()
        if not self._offered:
            self._receive()

    def _pump_source(self) -> None:
        while not self.ended:
            if not self._unsent:
                self._unsent = self._outward[: self._source.read_into([self._outward])]
                if not self._unsent:
                    self._end_input()
                    break
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                break
            except OSError:  # EPIPE: the engine is gone, its end is noticed elsewhere
                self._unsent = self._outward[:0]
                break
        self._watch()

    def end_input(self) -> None:
        """Nothing more will come from the source: when all that came is handed on, tell the engine.

        QEMU then closes the connection, in both directions.
        """
        self._input_ended = True
        self._pump_source()

    def _end_input(self) -> None:
        if self._input_ended and not self._unsent:
            self._input_ended = False
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the engine is gone

    def drain(self) -> None:
        """The engine has ended: hand on what it had sent, without waiting for the source any more."""
        self._receive()

    def _end(self) -> None:
        self.close()
        if self._on_end is not None:
            self._on_end()

    def close(self) -> None:
        """Leave the loop and close the socket."""
        if not self.ended:
            self.ended = True
            self._loop.remove(self._socket.fileno())
            self._socket.close()
