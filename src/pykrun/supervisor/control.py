"""The host's end of the control port: frames in, frames out (docs/control-port.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from struct import Struct

from pykrun.buffers import scatter, skip
from pykrun.errors import ControlError
from pykrun.record import record
from pykrun.start_data import LONGEST_GRACE

VERSION = 1
HEADER = Struct("<IHHI")
MAX_BODY = 65536
OPTIONAL = 0x8000
"""Frame types from here on may be skipped by whoever does not know them."""
MAX_PENDING = 1 << 20
"""Bytes that may wait for a guest that does not read; more and the guest is given up."""
FURTHER_COMMANDS = 1
"""Feature bit of HELLO: this init starts further commands."""

HELLO, STARTED, COUNTS, EXIT, LOG, CLOSE, DONE = range(0x01, 0x08)
WELCOME, ACK, DRAINING, SIGNAL, STOP, RESIZE, STDIN_END, CLOSE_OUTPUT, TIME, BEGIN = range(0x101, 0x10B)
SPEC, EXEC, INPUT, CREDIT = range(0x201, 0x205)
OUTPUT, INPUT_CREDIT = 0x211, 0x212

LAST_SIGNAL = 64
"""SIGRTMAX of every guest."""

_U64 = Struct("<Q")
_U32 = Struct("<I")
_U8 = Struct("<B")
_VERSION = Struct("<HHI")
_PID = Struct("<i")
_COUNTS = Struct("<QQ")
_EXIT = Struct("<ii")
_WINDOW = Struct("<HHHH")


@record(frozen=True, slots=True)
class Exit:
    """How the workload or a further command ended, as init tells it."""

    code: int
    signal: int
    reason: str


@record(slots=True)
class Events:
    """What the owner of the port wants to hear; each is called from within `Control.write`."""

    hello: Callable[[int], None]
    started: Callable[[int], None]
    counts: Callable[[int, int], None]
    exit: Callable[[Exit], None]
    log: Callable[[int, str], None]
    close: Callable[[int], None]
    done: Callable[[], None]


def bounded(grace: float) -> float:
    """The seconds between TERM and KILL that are nearest to what was asked for, whatever that was; 0 for a NaN."""
    return min(max(0.0, grace), LONGEST_GRACE)


def make_frame(kind: int, body: bytes = b"", process: int = 0) -> bytes:
    """Header and body."""
    return HEADER.pack(len(body), kind, 0, process) + body


def take_exit(body: bytes) -> Exit:
    """The fields of EXIT, whose body is long enough."""
    code, signal = _EXIT.unpack_from(body)
    return Exit(code & 0xFF, signal, body[_EXIT.size :].decode(errors="replace"))


class Control:
    """A `Sink` for the guest's frames and a `Source` of ours.

    :param events: callbacks for the guest's frames.
    :param on_error: called once with the `ControlError` when the guest breaks the protocol; later bytes are dropped.
    """

    def __init__(self, events: Events, on_error: Callable[[ControlError], None]) -> None:
        self.on_ready: Callable[[], None] | None = None
        self.greeted = False
        self._has_started = False
        self._begun = False
        self.features = 0
        """What the guest's init can do, by its HELLO."""
        self.on_command: Callable[[int, int, bytes], None] | None = None
        """Called with type, process and body of each frame about a further command; may raise `ControlError`."""
        self.more: Callable[[], bytes] | None = None
        """Asked for frames of further commands when the guest has room for them; empty: there are none now."""
        self._on_error = on_error
        self._events = events
        self._received = bytearray()
        self._pending = bytearray()
        self._time_is_due = False
        self._broken = False
        self._handlers: dict[int, tuple[int, Callable[[bytes], None]]] = {
            HELLO: (_VERSION.size, self._hello),
            STARTED: (_PID.size, self._started),
            COUNTS: (_COUNTS.size, lambda body: events.counts(*_COUNTS.unpack_from(body))),
            EXIT: (_EXIT.size, self._exit),
            LOG: (1, lambda body: events.log(body[0], body[1:].decode(errors="replace"))),
            CLOSE: (1, lambda body: events.close(body[0])),
            DONE: (0, lambda body: events.done()),
        }

    # -- the guest's frames ------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Take bytes from the guest and act on every whole frame (`Sink`)."""
        taken = 0
        for buffer in buffers:
            taken += len(buffer)
            if not self._broken:
                self._received += buffer
        try:
            while not self._broken and self._take_frame():
                pass
        except ControlError as error:
            self._broken = True
            self._received.clear()
            self._on_error(error)
        return taken

    def _take_frame(self) -> bool:
        received = self._received
        if len(received) < HEADER.size:
            return False
        length, kind, reserved, process = HEADER.unpack_from(received)
        if length > MAX_BODY:
            raise ControlError(f"control port: a frame of {length} bytes, at most {MAX_BODY} are allowed")
        if reserved:
            raise ControlError(f"control port: reserved field is {reserved}, must be 0")
        end = HEADER.size + length
        if len(received) < end:
            return False
        body = bytes(received[HEADER.size : end])
        del received[:end]
        self._dispatch(kind, process, body)
        return True

    def _dispatch(self, kind: int, process: int, body: bytes) -> None:
        if kind >= OPTIONAL:
            return
        if process and self.on_command is not None:
            self.on_command(kind, process, body)
            return
        known = self._handlers.get(kind)
        if known is None:
            raise ControlError(f"control port: unknown frame type {kind:#x}")
        if process:
            raise ControlError(f"control port: frame {kind:#x} for process {process}, which was never started")
        if not self.greeted and kind != HELLO:
            raise ControlError(f"control port: frame {kind:#x} before HELLO")
        least, handler = known
        if len(body) < least:
            raise ControlError(f"control port: frame {kind:#x} has {len(body)} bytes, at least {least} are needed")
        handler(body)

    def _hello(self, body: bytes) -> None:
        version, _reserved, features = _VERSION.unpack_from(body)
        if self.greeted or version < 1:
            raise ControlError(f"control port: HELLO twice or with version {version}")
        self.greeted = True
        self.features = features
        self.send(WELCOME, _VERSION.pack(min(version, VERSION), 0, 0))
        self._events.hello(version)
        if self._begun:
            self.send(BEGIN)

    def _started(self, body: bytes) -> None:
        if self._has_started:
            raise ControlError("control port: STARTED twice")
        self._has_started = True
        self._events.started(_PID.unpack_from(body)[0])

    def _exit(self, body: bytes) -> None:
        self._events.exit(take_exit(body))

    # -- our frames --------------------------------------------------------------------------------------------

    def ack(self) -> None:
        """Every byte that COUNTS named has been handed on."""
        self.send(ACK)

    def begin(self) -> None:
        """Let the workload start that is held back; the guest hears of it behind WELCOME."""
        self._begun = True
        if self.greeted:
            self.send(BEGIN)

    def draining(self) -> None:
        """The reader is slow but alive."""
        self.send(DRAINING)

    def signal(self, number: int) -> None:
        """Send a signal to the workload's process group; what is none is dropped."""
        if 1 <= number <= LAST_SIGNAL:
            self.send(SIGNAL, _U32.pack(number))

    def stop(self, grace: float) -> None:
        """Ask for an orderly end; `grace` is the time in seconds between TERM and KILL, brought into bounds."""
        self.send(STOP, _U32.pack(int(bounded(grace) * 1000)))

    def resize(self, rows: int, columns: int) -> None:
        """The terminal has a new size, in characters."""
        self.send(RESIZE, _WINDOW.pack(rows, columns, 0, 0))

    def stdin_end(self, count: int) -> None:
        """Standard input ended after `count` bytes."""
        self.send(STDIN_END, _U64.pack(count))

    def close_output(self, stream: int) -> None:
        """Nobody reads stream 1 or 2 any more."""
        self.send(CLOSE_OUTPUT, _U8.pack(stream))

    def tell_time(self) -> None:
        """Tell the host's clock: that of the moment when the guest takes the frame, so it is made only then."""
        if self.greeted and not self._broken:
            self._time_is_due = True
            if self.on_ready is not None:
                self.on_ready()

    def send(self, kind: int, body: bytes = b"", process: int = 0) -> None:
        """A frame of any type: a small one, that need not wait until the guest has room."""
        if self._broken:
            return
        self._pending += make_frame(kind, body, process)
        if len(self._pending) > MAX_PENDING:
            self._broken = True
            self._pending.clear()
            self._on_error(ControlError("control port: the guest does not read it"))
        elif self.on_ready is not None:
            self.on_ready()

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        """Give our frames to the guest (`Source`)."""
        count = 0
        for buffer in buffers:
            filled = 0
            while filled < len(buffer) and (self._pending or self._ask_for_more()):
                part = self._pending[: len(buffer) - filled]
                buffer[filled : filled + len(part)] = part
                del self._pending[: len(part)]
                filled += len(part)
            count += filled
            if filled < len(buffer):
                break
        if self._time_is_due and not self._pending:
            count += self._give_time(skip(buffers, count))
        return count

    def wake(self) -> None:
        """There is something to be had from `more`."""
        if self.on_ready is not None:
            self.on_ready()

    def _ask_for_more(self) -> bool:
        if self.more is not None and not self._broken:
            self._pending += self.more()
        return bool(self._pending)

    def _give_time(self, room: Sequence[memoryview]) -> int:
        frame = make_frame(TIME, _U64.pack(time.time_ns()))
        if sum(map(len, room)) < len(frame):
            return 0
        self._time_is_due = False
        return scatter(frame, room)
