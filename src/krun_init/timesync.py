"""The host's clock: compared with the guest's whenever the host tells it, and taken over when they differ.

It comes in one of three ways (docs/control-port.md): as TIME frames of the control port, as datagrams over vsock, or
as records over the port `krun-timesync`. PID 1's own loop takes them; where PID 1 becomes the workload, a child does.
"""

from __future__ import annotations

import _socket
import posix
import time

from krun_init import ports, switches
from krun_init.control import TIME
from krun_init.errors import InitError, reason_of
from krun_init.log import INFO, Log
from krun_init.loop import ERR, HUP, IN, OUT, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from krun_init.places import Places

PORT = "krun-timesync"
RECORD = 8
_ASK = b"\0"

_SECOND = 1_000_000_000
_TOLERANCE = 100_000_000
"""Nanoseconds that the clocks may differ."""
_LARGEST = (1 << 63) - 1
"""What a kernel's clock can hold, in nanoseconds since the epoch (KTIME_MAX)."""

_VSOCK_PORT = 123
_ANY_CID = 0xFFFFFFFF  # uapi/linux/vm_sockets.h
_FEW = 4096
_READS = 256
"""Reads of a port in a row; its queue has no more buffers, and each read empties one."""

_DESCRIPTORS = 64
"""More than init ever has open."""

_UNCONNECTED = 0.1
_LOOKS = 100
"""Looks at a port, so many seconds apart, that the host does not open before it is given up."""


class Clock:
    """The guest's clock, held to the host's. Steps go both ways; those back are logged.

    :param fd: where records come from, non-blocking; -1 if they come as frames only.
    :param datagrams: whether each read of it is a record; otherwise it is a stream of bytes.
    """

    def __init__(self, places: Places, log: Log, fd: int = -1, datagrams: bool = False) -> None:
        self.asked = 0
        """When the host was asked for the time it has not told yet (CLOCK_MONOTONIC, ns), or 0."""
        self._places = places
        self._log = log
        self._fd = fd
        self._datagrams = datagrams
        self._refused = False

    def attach(self, loop: Loop) -> None:
        """Take part in the loop from now on."""
        if self._fd >= 0:
            Receiver(loop, self._fd, self._datagrams, self)

    def heir(self) -> Callable[[], None] | None:
        """What is to run in a child when PID 1 has become the workload; None: there is nothing to listen to."""
        return None if self._fd < 0 else self._listen_alone

    def _listen_alone(self) -> None:
        posix.setsid()
        posix.chdir("/")
        posix.closerange(3, self._fd)
        posix.closerange(self._fd + 1, _DESCRIPTORS)
        self._log = Log()  # the control port is closed with our exec
        loop = Loop()
        receiver = Receiver(loop, self._fd, self._datagrams, self)
        while not receiver.closed:
            loop.turn()

    def hear(self, host: int) -> None:
        """Take over the host's time if the guest's is off.

        An answer may be as old as the question: it has waited here while the guest booted. Nothing that its age could
        explain makes a step.

        :param host: nanoseconds since the epoch.
        """
        if not switches.BUILT * _SECOND <= host <= _LARGEST:
            self._refuse(f"the host's clock was refused: {host // _SECOND} seconds since the epoch")
            return
        age = 0
        if self.asked:
            age, self.asked = time.monotonic_ns() - self.asked, 0
        ahead = self._places.clock() - host
        if -_TOLERANCE <= ahead <= _TOLERANCE + age:
            return
        try:
            self._places.set_clock(host + age // 2)
        except OSError as error:
            self._refuse(f"the clock cannot be set: {reason_of(error)}")
            return
        if ahead > 0:
            self._log.line(INFO, f"the clock was set back by {ahead / _SECOND:.1f} s")

    def _refuse(self, reason: str) -> None:
        """Said once: the host will go on telling the time."""
        if not self._refused:
            self._refused = True
            self._log.warn(reason)


class Receiver:
    """Takes records from a descriptor until an error or the host's end of it; then `closed`."""

    def __init__(self, loop: Loop, fd: int, datagrams: bool, clock: Clock) -> None:
        self.closed = False
        self._loop = loop
        self._fd = fd
        self._datagrams = datagrams
        self._clock = clock
        self._events = IN if datagrams else IN | OUT  # until it was asked for the time
        self._partial = b""
        self._was_there = datagrams
        self._looks = 0
        self._listen()

    def _listen(self) -> None:
        self._loop.add(self._fd, self._events, self._on_event)

    def _on_event(self, events: int) -> None:
        try:
            if events & OUT:
                self._ask()
            if events & ~OUT:
                is_there = self._take_datagram(events) if self._datagrams else self._take_records()
                self._was_there = self._was_there or is_there
                if not is_there:
                    self._hung_up()
        except BlockingIOError:
            pass
        except OSError:
            self._close()

    def _ask(self) -> None:
        posix.write(self._fd, _ASK)
        self._events = IN
        self._clock.asked = time.monotonic_ns()
        self._listen()

    def _take_datagram(self, events: int) -> bool:
        if events & (ERR | HUP):
            return False
        data = posix.read(self._fd, 2 * RECORD)
        if len(data) == RECORD:
            self._hear(data)
        return True

    def _take_records(self) -> bool:
        """Only the newest counts: what has waited for us is old."""
        received = self._partial
        data = b"more"
        try:
            for _ in range(_READS):
                data = posix.read(self._fd, _FEW)
                received += data
                if not data:
                    break
        except BlockingIOError:
            pass
        end = len(received) // RECORD * RECORD
        self._partial = received[end:]
        if end:
            self._hear(received[end - RECORD : end])
        return bool(data)

    def _hear(self, record: bytes) -> None:
        self._clock.hear(int.from_bytes(record, "little"))

    def _hung_up(self) -> None:
        """No host at the other end: after it was there that is the end, before it a matter of waiting."""
        self._looks += 1
        if self._was_there or self._looks > _LOOKS:
            self._close()
        else:
            self._loop.remove(self._fd)
            self._loop.after("timesync", _UNCONNECTED, self._listen)

    def _close(self) -> None:
        self.closed = True
        self._loop.remove(self._fd)
        posix.close(self._fd)


def start(found: dict[str, str], places: Places, log: Log, pid1: bool) -> Clock:
    """Set the clock to what the host has said so far, and open what it will go on to say it by.

    :param found: the virtio ports by name.
    :param pid1: PID 1 becomes the workload: nobody will be there for frames.
    """
    control = log.control
    has_frames = control is not None and not pid1
    clock = Clock(places, log, *_open(found, places, log, has_frames))
    if control is not None:
        clock.asked = control.opened
        for values in control.early(TIME)[-1:]:
            clock.hear(values[0])
    return clock


def _open(found: dict[str, str], places: Places, log: Log, has_frames: bool) -> tuple[int, bool]:
    """Open where records come from: the descriptor or -1, and whether they are datagrams.

    A host with a control port needs no vsock, so a boot is spared the question.
    """
    fd = -1 if has_frames else _open_vsock(places)
    if fd >= 0:
        return fd, True
    device = found.get(PORT)
    if device is not None:
        try:
            fd = ports.open_port(places, device, posix.O_RDWR | posix.O_NONBLOCK)
        except InitError as error:
            log.warn(str(error))
    return fd, False


def _open_vsock(places: Places) -> int:
    """Where vsock has datagrams (libkrun's kernels; others have ENODEV). -1 if not.

    Without its device there is no vsock, and to ask for a socket would make the kernel look for a module, in vain.
    """
    try:
        posix.stat(places.vsock)
        listener = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    except OSError:
        return -1
    try:
        listener.bind((_ANY_CID, _VSOCK_PORT))
    except OSError:
        listener.close()
        return -1
    return listener.detach()
