"""The guest's end of the control port (docs/control-port.md)."""

from __future__ import annotations

import posix
import time
from _struct import Struct

from krun_init.errors import ProtocolError
from krun_init.loop import IN, OUT, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from krun_init.errors import Ending

    Values = tuple[Any, ...]  # integers; of BYTES one bytes object
    Frame = tuple[int, int, Values]
    OnFrame = Callable[[int, int, Values], None]

VERSION = 1
HEADER = Struct("<IHHI")
MAX_BODY = 65536
OPTIONAL = 0x8000
FURTHER_COMMANDS = 1
"""Feature bit of HELLO: this init starts further commands."""

HELLO, STARTED, COUNTS, EXIT, LOG, CLOSE, DONE = range(0x01, 0x08)
WELCOME, ACK, DRAINING, SIGNAL, STOP, RESIZE, STDIN_END, CLOSE_OUTPUT, TIME, BEGIN = range(0x101, 0x10B)
SPEC, EXEC, INPUT, CREDIT = range(0x201, 0x205)
OUTPUT, INPUT_CREDIT = 0x211, 0x212

# What the host may send: the fields of each body; those of BYTES are followed by more.
BODIES = {
    WELCOME: Struct("<HHI"),
    ACK: Struct("<"),
    DRAINING: Struct("<"),
    SIGNAL: Struct("<I"),
    STOP: Struct("<I"),
    RESIZE: Struct("<HHHH"),
    STDIN_END: Struct("<Q"),
    CLOSE_OUTPUT: Struct("<B"),
    TIME: Struct("<Q"),
    BEGIN: Struct("<"),
    SPEC: Struct("<"),
    EXEC: Struct("<"),
    INPUT: Struct("<"),
    CREDIT: Struct("<BI"),
}
BYTES = (SPEC, EXEC, INPUT)
_OF_BOTH = (SIGNAL, RESIZE, STDIN_END, CLOSE_OUTPUT)  # the workload's, and further commands'; from SPEC on only theirs

_U8 = Struct("<B")
_I32 = Struct("<i")
_COUNTS = Struct("<QQ")
_EXIT = Struct("<ii")

_MAX_PENDING = 1 << 20
_LAST_SECONDS = 2.0
_PAGE = 4096
_PAGES = 31


def frames(received: bytearray) -> Iterator[Frame]:
    """Take every whole frame off the front: its type, the process, and the fields of its body (or the body itself).

    Frames of optional types are skipped.

    :raise ProtocolError: a frame that must not be.
    """
    while len(received) >= HEADER.size:
        length, kind, reserved, process = HEADER.unpack_from(received)
        if length > MAX_BODY:
            raise ProtocolError(f"frame of {length} bytes, at most {MAX_BODY} are allowed")
        if reserved:
            raise ProtocolError(f"reserved field is {reserved}, must be 0")
        end = HEADER.size + length
        if len(received) < end:
            return
        if kind < OPTIONAL:
            fields = BODIES.get(kind)
            if fields is None:
                raise ProtocolError(f"unknown frame type {kind:#x}")
            if kind not in _OF_BOTH and (kind >= SPEC) != (process > 0):
                raise ProtocolError(f"frame {kind:#x} for process {process}")
            if length < fields.size:
                raise ProtocolError(f"frame {kind:#x} has {length} bytes, at least {fields.size} are needed")
            if kind in BYTES:
                values: Values = (bytes(memoryview(received)[HEADER.size : end]),)
            else:
                values = fields.unpack_from(received, HEADER.size)
            del received[:end]
            yield kind, process, values
        else:
            del received[:end]


class Control:
    """Frames to and from the host. Never raises for what the host or the port does: it is given up instead.

    :param fd: the port, non-blocking; None once it was given up.
    """

    def __init__(self, fd: int) -> None:
        self.fd: int | None = fd
        self.on_frame: OnFrame | None = None
        self.on_sent: Callable[[], None] | None = None
        """Called when nothing waits for the host any more (`backlog`)."""
        self.opened = time.monotonic_ns()
        """When the host was greeted: nothing that it says was said before."""
        self._early: list[Frame] = []  # what it said while nobody listened
        self._received = bytearray()
        self._pending = bytearray()
        self._pages: list[bytearray] = []
        self._loop: Loop | None = None
        self._greeted = False
        self.send(HELLO, BODIES[WELCOME].pack(VERSION, 0, FURTHER_COMMANDS))

    # -- towards the host --------------------------------------------------------------------------------------

    def started(self, pid: int) -> None:
        """The workload was executed."""
        self.send(STARTED, _I32.pack(pid))

    def counts(self, output: int, error: int) -> None:
        """So many bytes went into the ports; nothing follows."""
        self.send(COUNTS, _COUNTS.pack(output, error))

    def close_input(self) -> None:
        """Nobody reads standard input any more."""
        self.send(CLOSE, _U8.pack(0))

    def log(self, level: int, text: str) -> bool:
        """A line for the host's log; whether it could be sent. A host that has long read nothing hears no more."""
        if len(self._pending) >= _MAX_PENDING:
            return self.fd is not None
        return self.send(LOG, _U8.pack(level) + text.encode("utf-8", "replace")[: MAX_BODY - 1])

    def settle(self) -> None:
        """Wait, within a bound, until what was said so far is out: nobody will go on saying it, or listen."""
        self.on_frame = _ignore
        self._wait(lambda: not self._pending)

    def finish(self, ending: Ending) -> None:
        """The last words: how it ended, and that the host may end the machine.

        A write returns before the host has taken the bytes, and a reboot resets the ring: so wait, within a bound, for
        the host to end the machine or to say ACK.
        """
        acknowledged = False

        def heard(kind: int, _process: int, _values: Values) -> None:
            nonlocal acknowledged
            acknowledged = acknowledged or kind == ACK

        reason = ending.reason.encode("utf-8", "replace")[: MAX_BODY - _EXIT.size]
        self.send(EXIT, _EXIT.pack(ending.code, ending.signal) + reason)
        self.send(DONE, b"")
        self.on_frame = heard
        self._wait(lambda: acknowledged)

    def _wait(self, done: Callable[[], bool]) -> None:
        """Turn a loop of our own until it is done, the port is gone, or the time is over."""
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True

        if self.fd is not None and self._loop is not None:
            self._loop.remove(self.fd)
        loop = Loop()
        loop.after("patience", _LAST_SECONDS, expire)
        self.attach(loop)
        while self.fd is not None and not expired and not done():
            loop.turn()

    def send(self, kind: int, body: bytes, process: int = 0) -> bool:
        """A frame of any type; whether the port is still there."""
        if self.fd is None:
            return False
        self._pending += HEADER.pack(len(body), kind, 0, process) + body
        self._flush()
        return self.fd is not None

    @property
    def backlog(self) -> int:
        """Bytes that the host has not taken yet."""
        return len(self._pending)

    def _flush(self) -> None:
        try:
            while self._pending and self.fd is not None:
                del self._pending[: posix.write(self.fd, self._pending)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._loop is not None:
            self._watch(self._loop)
        if self.on_sent is not None and not self._pending:
            self.on_sent()

    # -- from the host -----------------------------------------------------------------------------------------

    def early(self, kind: int) -> list[Values]:
        """Take out the frames of that type that came before anybody listened; the others wait on."""
        self._read()
        taken = [values for other, _process, values in self._early if other == kind]
        self._early = [frame for frame in self._early if frame[0] != kind]
        return taken

    def listen(self, on_frame: OnFrame) -> None:
        """Call `on_frame` with each frame's type, process and fields, those that came early first."""
        self.on_frame = on_frame
        early, self._early = self._early, []
        self._hand_on(early)

    def keep(self, some: list[Frame]) -> None:
        """Have nobody listen again; `listen` begins with these."""
        self.on_frame = None
        self._early = some

    def attach(self, loop: Loop) -> None:
        """Take part in the loop from now on."""
        self._loop = loop
        if self.fd is not None:
            self._watch(loop)

    def _watch(self, loop: Loop) -> None:
        if self.fd is not None:
            loop.add(self.fd, IN | OUT if self._pending else IN, self._ready)

    def _ready(self, events: int) -> None:
        if events & IN:
            self._read()
        elif not events & OUT:
            self._hung_up()
        if events & OUT and self._pending:
            self._flush()

    def _hung_up(self) -> None:
        """The host is gone, or (before its first frame) not there yet; then poll would return at once for ever."""
        if self._greeted:
            self.close()
        elif self._loop is not None and self.fd is not None:
            self._loop.remove(self.fd)
            self._loop.after("control", 0.002, self._flush)

    def _read(self) -> None:
        if self.fd is None:
            return
        try:
            data = self._take(self.fd)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._hung_up()
            return
        self._greeted = True
        self._received += data
        self._hand_on(frames(self._received))

    def _hand_on(self, some: Iterable[Frame]) -> None:
        try:
            for frame in some:
                if self.on_frame is not None:
                    self.on_frame(*frame)
                else:
                    self._early.append(frame)
        except ProtocolError as error:
            self.log(0, f"the host broke the protocol, init goes on without it: {error}")
            self.close()

    def _take(self, fd: int) -> bytes:
        """The driver gives at most a page at a time; behind a whole one there is more."""
        data = posix.read(fd, _PAGE)
        if len(data) < _PAGE:
            return data
        self._pages = self._pages or [bytearray(_PAGE) for _ in range(_PAGES)]
        try:
            size = posix.readv(fd, self._pages)
        except BlockingIOError:
            return data
        return data + b"".join(self._pages)[:size]

    def close(self) -> None:
        """Give the port up."""
        fd, self.fd = self.fd, None
        if fd is not None:
            if self._loop is not None:
                self._loop.remove(fd)
                self._loop.forget("control")
            posix.close(fd)


def _ignore(_kind: int, _process: int, _values: Values) -> None:
    pass
