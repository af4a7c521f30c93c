"""A running engine, as its supervisor sees it."""

from __future__ import annotations

import os
import signal
import socket

from pykrun.record import record
from pykrun.sandbox import Ended, Inmate, Isolation, signal_name

QUIT = b'{"execute":"qmp_capabilities"}{"execute":"quit"}'
"""QMP: end in order. What nobody reads then, a greeting, two answers and an event, fits into any socket's buffer."""

POWER_DOWN = b'{"execute":"qmp_capabilities"}{"execute":"system_powerdown"}'
"""QMP: the power button is pressed."""


class Endpoint:
    """Our end of one vhost-user device: a socket that is connected, or one that the engine will connect to.

    A listening socket is bound and listens only some milliseconds after the start, in the engine's own file system.
    Until then epoll reports it as hung up all the time: wait for it edge-triggered (`loop.IN | loop.EDGE`) and call
    `accept` whenever there is an event.

    :ivar socket: non-blocking; what to wait for.
    :ivar connected: `socket` is the connection itself, nothing needs to be accepted.
    """

    __slots__ = ("connected", "socket")

    def __init__(self, sock: socket.socket, *, connected: bool) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.connected = connected

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self.socket.fileno()

    def accept(self) -> socket.socket | None:
        """Return the non-blocking connection, None while there is none; the engine connects once.

        A listening socket is closed when it has been connected to: take it out of the loop before.
        """
        if self.connected:
            return self.socket
        try:
            connection, _ = self.socket.accept()
        except OSError:  # EAGAIN: not yet connected to; EINVAL: not yet listening
            return None
        connection.setblocking(False)
        self.socket.close()
        self.socket, self.connected = connection, True
        return connection

    def close(self) -> None:
        """Close it in either state."""
        self.socket.close()


@record(slots=True, kw_only=True)
class Running:
    """A started engine and our ends of everything that leads into it.

    :ivar engine: `uml` or `qemu`.
    :ivar accel: `kvm`, `tcg`, or empty for User Mode Linux.
    :ivar console: non-blocking read end of what kernel and engine print (the boot log). Read it always: a full pipe
        stops the guest. It may stay open after the end of the engine; never wait for its end.
    :ivar shares: one vhost-user end per `Machine.shares`, in that order.
    :ivar networks: one vhost-user end per `Machine.networks`, in that order.
    :ivar console_device: the vhost-user end of our console device (device id 3), which carries `Machine.console` as
        port 0 and `Machine.ports` as the named ports; None where the engine has a console device of its own.
    :ivar vsock: the vhost-user end of the vsock device, None without one.
    :ivar consoles: the same for each of `Machine.consoles`, none where the engine has a console device of its own.
    :ivar disks: one vhost-user end per `Machine.disks`, in that order; none where the engine has disks of its own.
    :ivar ports: connected stream sockets by port name, where the engine has a console device of its own.
    :ivar terminal: the same for hvc0.
    :ivar console_ports: the same for the ports of each of `Machine.consoles`.
    :ivar serials: connected stream sockets, one for each serial line.
    :ivar control: QMP, for a later control of devices; None where there is none. Nothing reads it, and nothing has to:
        QEMU greets, and says no more before its capabilities were negotiated.
    :ivar keeps_tables: the engine itself has parts of an image in memory, which it writes when it quits (qcow2).
    """

    engine: str
    accel: str
    console: int
    shares: tuple[Endpoint, ...]
    networks: tuple[Endpoint, ...] = ()
    vsock: Endpoint | None = None
    disks: tuple[Endpoint, ...] = ()
    console_device: Endpoint | None
    ports: dict[str, socket.socket]
    terminal: socket.socket | None
    consoles: tuple[Endpoint, ...] = ()
    console_ports: tuple[tuple[socket.socket, ...], ...] = ()
    serials: tuple[socket.socket, ...] = ()
    control: socket.socket | None
    keeps_tables: bool = False
    inmate: Inmate

    @property
    def pid(self) -> int:
        """The process that everything of the VM descends from."""
        return self.inmate.pid

    @property
    def pidfd(self) -> int:
        """Readable as soon as the engine has ended and everything of it is gone."""
        return self.inmate.pidfd

    @property
    def isolation(self) -> Isolation:
        """The isolation reached; waits some milliseconds right after the start.

        :raise SandboxError: the required isolation is not to be had.
        :raise EngineError: the engine could not be executed.
        """
        return self.inmate.isolation

    def kill(self) -> None:
        """End the VM now, with everything in it. Returns at once; `pidfd` becomes readable."""
        self.inmate.kill()

    def pause(self) -> None:
        """Stop the VM where it is. Its monotonic clock goes on, as that of a computer that sleeps does not."""
        self.inmate.freeze()

    def resume(self) -> None:
        """Let it go on."""
        self.inmate.thaw()

    def quit(self) -> bool:
        """Ask the engine to write what it holds and end; False when it has nothing to write: kill it.

        Returns at once; `pidfd` becomes readable, unless the engine is no longer what it was.
        """
        if self.control is None or not self.keeps_tables:
            return False
        try:
            self.control.send(QUIT, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def press_power_button(self) -> bool:
        """Ask the guest's operating system to end, by ACPI; False where the engine has no such thing."""
        if self.control is None:
            return False
        try:
            self.control.send(POWER_DOWN, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def reap(self) -> Ended | None:
        """Return how it ended when `pidfd` is readable, None before. `Ended.error` says why it never ran."""
        return self.inmate.reap()

    def describe_end(self) -> str:
        """Say in a few words how the engine ended, or that it has not: "qemu exited with 1"."""
        ended = self.inmate.reap()
        if ended is None:
            return f"{self.engine} is running"
        if ended.error:
            return f"{self.engine} did not start: {ended.error}"
        code = -signal.SIGKILL if ended.status is None else os.waitstatus_to_exitcode(ended.status)
        if code == -signal.SIGKILL:  # without a status its keeper was killed, and the engine with it
            return f"{self.engine} was killed"
        return f"{self.engine} exited with {code}" if code >= 0 else f"{self.engine} was ended by {signal_name(-code)}"

    def close(self) -> None:
        """End what still runs and release everything: processes, sockets, descriptors, folders."""
        self.inmate.close()
        for endpoint in (*self.shares, *self.disks, *self.consoles, *self.networks, self.vsock, self.console_device):
            if endpoint is not None:
                endpoint.close()
        further = (sock for device in self.console_ports for sock in device)
        for sock in (*self.ports.values(), *further, *self.serials, self.terminal, self.control):
            if sock is not None:
                sock.close()
        if self.console >= 0:
            os.close(self.console)
            self.console = -1
