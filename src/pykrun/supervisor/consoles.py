"""The consoles, ports and serial lines that a machine has beside those of its workload: the host's end of each.

Their readers are somebody else's, slow or dead: none may hold up the guest, another port, or the end of the run.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pykrun.errors import UsageError
from pykrun.host.terminal import Terminal
from pykrun.loop import Loop
from pykrun.machine import MAX_CONSOLE_PORTS, MAX_CONSOLES, MAX_PORT_NAME, MAX_TERMINALS, Console, ConsolePort, Serial
from pykrun.ports import Sink
from pykrun.record import record
from pykrun.supervisor.socket_port import BufferedSink, SocketPort
from pykrun.supervisor.streams import FdSink, FdSource
from pykrun.virtio.console import ConsoleDevice
from pykrun.virtio.console import ConsolePort as Port

KEPT = 1 << 20
"""Bytes of a console's output that wait for a slow reader; Linux writes to a console with the CPU spinning."""


def check(consoles: Sequence[Console], serials: Sequence[Serial], taken: Sequence[str]) -> None:
    """Refuse what no engine could give.

    :param taken: names of ports that the machine has already.
    :raise UsageError: too many devices or ports, or a port's name that cannot be; a descriptor that is not open.
    """
    if len(consoles) > MAX_CONSOLES:
        raise UsageError(f"{len(consoles)} console devices, of at most {MAX_CONSOLES}")
    terminals = sum(port.console for console in consoles for port in console.ports)
    if terminals > MAX_TERMINALS:
        raise UsageError(f"{terminals} consoles beside hvc0, of at most {MAX_TERMINALS}")
    names = list(taken)
    for console in consoles:
        if not 0 < len(console.ports) <= MAX_CONSOLE_PORTS:
            raise UsageError(f"a console device with {len(console.ports)} ports, of 1 to {MAX_CONSOLE_PORTS}")
        for port in console.ports:
            _check_name(port, names)
    ends = [end for console in consoles for port in console.ports for end in (port.input, port.output)]
    for fd in (*ends, *(end for serial in serials for end in (serial.input, serial.output))):
        try:
            if fd is not None:
                os.fstat(fd)
        except OSError as error:
            raise UsageError(f"a console's descriptor {fd}: {error.strerror}") from None


def _check_name(port: ConsolePort, names: list[str]) -> None:
    name = port.name
    if len(name.encode(errors="surrogateescape")) > MAX_PORT_NAME or not name.isprintable() or not name.isascii():
        raise UsageError(f"a port's name {name!a}", f"a name is printable ASCII, at most {MAX_PORT_NAME} bytes")
    if not name and not port.console:
        raise UsageError("a port that is no console needs a name")
    if name and name in names:
        raise UsageError(f"two ports have the name {name!a}")
    names.append(name)


def stand_in(serials: Sequence[Serial]) -> tuple[Console, ...]:
    """Return virtio consoles in place of serial lines."""
    return tuple(
        Console(ports=(ConsolePort(console=True, input=serial.input, output=serial.output),)) for serial in serials
    )


@record(slots=True, kw_only=True)
class _Ends:
    """The host's end of one port.

    :ivar tell_end: called when the input has ended and the guest is to know; set by who serves the port.
    """

    sink: Sink
    source: FdSource
    tell_end: Callable[[], None] | None = None


class Consoles:
    """Opens the ends, and serves them.

    The descriptors are duplicated: one may be the input and the output of several ports.

    :param on_end: called when one more of the ends has nothing left to hand on.
    """

    def __init__(
        self,
        loop: Loop,
        consoles: Sequence[Console],
        serials: Sequence[Serial],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._consoles = consoles
        self._on_end = on_end
        self._stack = ExitStack()
        self._kept: list[BufferedSink] = []
        self._sockets: list[SocketPort] = []
        self._devices: list[ConsoleDevice] = []
        self._terminals: dict[int, Terminal] = {}
        with ExitStack() as undo:
            undo.callback(self.close)
            self._ends = [[self._open(port) for port in console.ports] for console in consoles]
            self._lines = [self._open(ConsolePort(console=True, input=one.input, output=one.output)) for one in serials]
            self._make_raw()
            undo.pop_all()

    def _open(self, port: ConsolePort) -> _Ends:
        sink: Sink = FdSink(
            self._loop, self._duplicate(port.output), on_broken=lambda error: None, on_count=lambda count: None
        )
        self._stack.callback(sink.close)  # type: ignore[attr-defined]
        if port.console:
            sink = BufferedSink(sink, KEPT, self._on_end, lossy=True)
            self._kept.append(sink)
        fd = self._duplicate(port.input)

        def ended(_count: int) -> None:
            if fd is not None and port.output is None and not port.console:
                self._loop.call_later(0, tell)  # behind the bytes, which the guest has not been told of yet

        def tell() -> None:
            if ends.tell_end is not None:
                ends.tell_end()

        source = FdSource(self._loop, fd, on_end=ended)
        self._stack.callback(source.close)
        ends = _Ends(sink=sink, source=source)
        return ends

    def _duplicate(self, fd: int | None) -> int | None:
        if fd is None:
            return None
        own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        self._stack.callback(os.close, own)
        return own

    def _make_raw(self) -> None:
        for console in self._consoles:
            for port in console.ports:
                if port.terminal and port.input is not None and port.input not in self._terminals:
                    terminal = self._terminals[port.input] = Terminal(port.input, port.output)
                    self._stack.callback(terminal.restore)
                    terminal.raw()

    def device(self, index: int, after: ConsoleDevice | None) -> ConsoleDevice:
        """Make the device of that place in `Machine.consoles`, for an engine that has none.

        :param after: whose consoles have the lower numbers.
        """
        ports = []
        for port, ends in zip(self._consoles[index].ports, self._ends[index], strict=True):
            terminal = self._terminals.get(port.input) if port.terminal and port.input is not None else None
            window = None if terminal is None or not port.console else terminal.size
            ports.append(Port(port.name, ends.sink, ends.source, console=port.console, window=window))
        device = ConsoleDevice(ports, after)
        for made, ends in zip(ports, self._ends[index], strict=True):
            ends.tell_end = lambda made=made: device.end_input(made)
        self._devices.append(device)
        return device

    def attach(self, index: int, number: int, connection: socket.socket) -> None:
        """Serve a port of such a device where the engine has it."""
        self._connect(connection, self._ends[index][number])

    def attach_serial(self, index: int, connection: socket.socket) -> None:
        """Serve a serial line."""
        self._connect(connection, self._lines[index])

    def _connect(self, connection: socket.socket, ends: _Ends) -> None:
        port = SocketPort(self._loop, connection, ends.sink, ends.source, on_end=self._on_end)
        ends.tell_end = port.end_input
        self._stack.callback(port.close)
        self._sockets.append(port)

    def resized(self) -> None:
        """A window may have changed."""
        for device in self._devices:
            device.resized()

    def drain(self) -> None:
        """The engine has ended: take what is left in its sockets."""
        for port in self._sockets:
            port.drain()

    @property
    def drained(self) -> bool:
        """Whether everything that the engine had sent was handed on."""
        return all(port.ended for port in self._sockets) and all(sink.empty for sink in self._kept)

    def close(self) -> None:
        """Give everything back; terminals are what they were."""
        self._stack.close()
