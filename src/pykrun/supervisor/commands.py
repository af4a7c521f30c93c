"""Further commands in a VM that runs, over its control port (docs/control-port.md).

Each has its own streams and credit: what a slow reader does not take waits with its command alone. What is to go to the
guest waits for room there, and the commands take turns.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable
from struct import Struct

from pykrun.errors import ControlError, UsageError
from pykrun.host import limits
from pykrun.loop import Loop, Timer
from pykrun.supervisor import control as wire
from pykrun.supervisor.console import printable
from pykrun.supervisor.control import Control, Exit, make_frame, take_exit
from pykrun.supervisor.outlet import Outlet
from pykrun.supervisor.streams import FdSource

LARGEST = 4 << 20
"""Bytes of one description."""
CHUNK = 32768
"""Bytes of a description or of input in one frame: others have their turn in between."""
WINDOW = 1 << 16
"""Bytes of a command's input that may be on their way from its start on; docs/control-port.md has the number."""
LAST_WINDOW = 1 << 30
"""More credit than any guest has use for."""
GRACE = 2.0
"""Seconds between HUP and KILL for a command whose client is gone."""
PATIENCE = 2.0
"""Seconds that readers have for the last bytes of commands when the VM has ended."""
REASON = 1024
"""Characters of a reason that are kept."""

NOT_YET = "the VM's init has not started its own command (yet), and further ones come after that"
NO_INIT = "the VM's init is an older one, which runs no further commands"
PID1 = "the VM runs no further commands: its own is PID 1 itself"
ENDED = "the VM has ended, or is about to"
CUT_OFF = Exit(128 + signal.SIGKILL, signal.SIGKILL, "the VM ended before the command did")

_U8 = Struct("<B")
_U32 = Struct("<I")
_U64 = Struct("<Q")
_PID = Struct("<i")
_CREDIT = Struct("<BI")
_WINDOW = Struct("<HHHH")

Streams = tuple[int | None, int | None, int | None]


def why_not(control: Control, *, over: bool, started: bool, pid1: bool) -> str:
    """Why a VM can run no further commands now; empty if it can.

    :param over: it has ended, or is about to.
    :param started: its own command runs.
    :param pid1: that one is PID 1 itself.
    """
    if over:
        return ENDED
    if pid1:
        return PID1
    if control.greeted and not control.features & wire.FURTHER_COMMANDS:
        return NO_INIT
    return "" if started else NOT_YET


class Commands:
    """Those of one VM.

    :param why_not: returns why there can be none now, empty if there can.
    """

    def __init__(self, loop: Loop, control: Control, why_not: Callable[[], str]) -> None:
        self._loop = loop
        self._control = control
        self._why_not = why_not
        self._last = 0
        self._running: dict[int, Command] = {}
        self._due: deque[Command] = deque()
        self._collected: bytearray | None = None
        self._on_drained: Callable[[], None] | None = None
        control.on_command = self._on_frame
        control.more = self._more

    def start(
        self,
        process: bytes,
        streams: Streams,
        *,
        on_started: Callable[[int], None],
        on_end: Callable[[Exit], None],
    ) -> Command:
        """Start one more command.

        :param process: what to run: an OCI `process` in JSON; what it leaves open is the workload's own.
        :param streams: descriptors for its input, output and errors, no two of the same number; with a terminal there
            are no errors. They are taken over, unless this raises. None is a stream that is closed.
        :param on_started: called with its pid in the guest.
        :param on_end: called once, when it has ended and all of its output has been handed on: with its exit code, and
            the reason if it could not be started or the VM ended. The streams are closed by then.
        :raise UsageError: the VM cannot do it, or not now.
        """
        if why := self._why_not():
            raise UsageError(why)
        if len(process) > LARGEST:
            raise UsageError(f"the description of a command has {len(process)} bytes, at most {LARGEST} are possible")
        if not self._last:
            limits.allow_descriptors()
        self._last += 1
        command = Command(self, self._loop, self._last, process, streams, on_started, on_end)
        self._running[self._last] = command
        self.is_due(command)
        return command

    # -- towards the guest -------------------------------------------------------------------------------------

    def say(self, kind: int, body: bytes, number: int) -> None:
        """Send a frame at once, or with what is collected now."""
        if self._collected is not None:
            self._collected += make_frame(kind, body, number)
        else:
            self._control.send(kind, body, number)

    def is_due(self, command: Command) -> None:
        """The command has something that can wait until the guest has room."""
        if not command.is_due:
            command.is_due = True
            self._due.append(command)
            if self._collected is None:
                self._control.wake()

    def _more(self) -> bytes:
        """What the next one has to say (`Control.more`): nothing may be sent meanwhile, for we are being asked."""
        self._collected = bytearray()
        try:
            while self._due and not self._collected:
                command = self._due.popleft()
                command.is_due = False
                if command.give():
                    self.is_due(command)
            return bytes(self._collected)
        finally:
            self._collected = None

    # -- from the guest ----------------------------------------------------------------------------------------

    def _on_frame(self, kind: int, number: int, body: bytes) -> None:
        command = self._running.get(number)
        if command is None or not command.sent:
            raise ControlError(f"control port: frame {kind:#x} for process {number}, which does not run")
        command.on_frame(kind, body)

    # -- the end -----------------------------------------------------------------------------------------------

    def forget(self, number: int) -> None:
        """A command is through."""
        self._running.pop(number, None)
        if self._on_drained is not None and not self._running:
            self._on_drained()

    @property
    def drained(self) -> bool:
        """Whether every one has had its end."""
        return not self._running

    def vm_ended(self, on_drained: Callable[[], None]) -> None:
        """Nothing more comes: end what is not through as soon as its reader has the rest, or does not take it.

        :param on_drained: called when all have their ends.
        """
        for command in list(self._running.values()):
            command.cut_off()
        if self._running:
            self._on_drained = on_drained
            self._loop.call_later(PATIENCE, self.close)

    def close(self) -> None:
        """End all that are left, at once."""
        for command in list(self._running.values()):
            command.cut_off()
            command.end()


class Command:
    """One command: of what drives it only `signal`, `resize` and `abandon` are for others."""

    def __init__(
        self,
        commands: Commands,
        loop: Loop,
        number: int,
        process: bytes,
        streams: Streams,
        on_started: Callable[[int], None],
        on_end: Callable[[Exit], None],
    ) -> None:
        self.is_due = False
        self.sent = False
        """Whether the guest has its description."""
        self._commands = commands
        self._loop = loop
        self._number = number
        self._process = memoryview(process)
        self._streams = list(streams)
        self._on_started = on_started
        self._on_end = on_end
        self._early: list[tuple[int, bytes]] = []  # what was said before the description was through
        self._pid = 0
        self._credit = WINDOW
        self._exit: Exit | None = None
        self._timer: Timer | None = None
        self._source = FdSource(loop, streams[0], on_end=self._input_ended)
        self._source.on_ready = lambda: commands.is_due(self)
        self._outlets = {stream: self._outlet(stream, fd) for stream, fd in enumerate(streams) if stream}

    def _outlet(self, stream: int, fd: int | None) -> Outlet:
        if fd is None:
            self._say(wire.CLOSE_OUTPUT, _U8.pack(stream))
        return Outlet(
            self._loop,
            fd,
            on_credit=lambda size: self._say(wire.CREDIT, _CREDIT.pack(stream, size)),
            on_broken=lambda: self._say(wire.CLOSE_OUTPUT, _U8.pack(stream)),
            on_empty=self._look,
        )

    # -- what others want of it --------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """Send a signal to its process group; what is none is dropped."""
        if 1 <= number <= wire.LAST_SIGNAL:
            self._say(wire.SIGNAL, _U32.pack(number))

    def resize(self, rows: int, columns: int) -> None:
        """Its terminal has a new size, in characters."""
        self._say(wire.RESIZE, _WINDOW.pack(rows, columns, 0, 0))

    def abandon(self) -> None:
        """Whoever wanted it is gone: HUP, its streams closed, and KILL if it does not end by that."""
        if self._exit is None and self._timer is None:
            self.signal(signal.SIGHUP)
            self._source.end()
            for stream in self._outlets:
                self._say(wire.CLOSE_OUTPUT, _U8.pack(stream))
            self._timer = self._loop.call_later(GRACE, lambda: self.signal(signal.SIGKILL))
        for stream, outlet in self._outlets.items():
            outlet.close()
            self._close_stream(stream)  # whoever reads hears of it now, whether the guest ever ends the command or not
        self._look()

    # -- towards the guest -------------------------------------------------------------------------------------

    def _say(self, kind: int, body: bytes) -> None:
        if self._exit is not None:
            return
        if self.sent:
            self._commands.say(kind, body, self._number)
        else:
            self._early.append((kind, body))

    def give(self) -> bool:
        """Say the next piece of what can wait; whether there may be more."""
        if not self.sent:
            piece, self._process = self._process[:CHUNK], self._process[CHUNK:]
            self._commands.say(wire.SPEC if self._process else wire.EXEC, bytes(piece), self._number)
            if not self._process:
                self.sent = True
                for kind, body in self._early:
                    self._say(kind, body)
                self._early.clear()
            return True
        if self._exit is not None or not self._credit or self._source.ended:
            return False
        room = bytearray(min(CHUNK, self._credit))
        count = self._source.read_into([memoryview(room)])
        self._credit -= count
        if count:
            self._say(wire.INPUT, bytes(room[:count]))
        return count > 0

    def _input_ended(self, count: int) -> None:
        self._say(wire.STDIN_END, _U64.pack(count))
        self._close_stream(0)

    def _close_stream(self, stream: int) -> None:
        fd, self._streams[stream] = self._streams[stream], None
        if fd is not None:
            os.close(fd)

    # -- from the guest ----------------------------------------------------------------------------------------

    def on_frame(self, kind: int, body: bytes) -> None:
        """Act on a frame.

        :raise ControlError: one that must not be.
        """
        known = _HANDLERS.get(kind)
        if known is None:
            raise ControlError(f"control port: unknown frame type {kind:#x} for process {self._number}")
        least, handler = known
        if len(body) < least:
            raise ControlError(f"control port: frame {kind:#x} has {len(body)} bytes, at least {least} are needed")
        if self._exit is not None:
            raise ControlError(f"control port: frame {kind:#x} for process {self._number}, which has ended")
        if self._pid <= 0 and kind not in (wire.STARTED, wire.EXIT):
            raise ControlError(f"control port: frame {kind:#x} before process {self._number} has started")
        handler(self, body)

    def _started(self, body: bytes) -> None:
        (pid,) = _PID.unpack_from(body)
        if self._pid or pid <= 0:
            raise ControlError(f"control port: process {self._number} started twice, or as {pid}")
        self._pid = pid
        self._on_started(pid)

    def _output(self, body: bytes) -> None:
        outlet = self._outlets.get(body[0])
        if outlet is None:
            raise ControlError(f"control port: output of process {self._number} to stream {body[0]}")
        outlet.take(memoryview(body)[1:])

    def _input_credit(self, body: bytes) -> None:
        self._credit += _U32.unpack_from(body)[0]
        if self._credit > LAST_WINDOW:
            raise ControlError(f"control port: credit of {self._credit} bytes for process {self._number}")
        self._commands.is_due(self)

    def _input_closed(self, body: bytes) -> None:
        if body[0] == 0:
            self._source.close()
            self._close_stream(0)

    def _ended(self, body: bytes) -> None:
        how = take_exit(body)
        self._exit = Exit(how.code, how.signal, printable(how.reason[:REASON]))
        self._source.close()
        self._look()

    # -- its end -----------------------------------------------------------------------------------------------

    def cut_off(self) -> None:
        """Nothing more comes from the guest."""
        if self._exit is None:
            self._exit = CUT_OFF
        self._source.close()
        self._look()

    def _look(self) -> None:
        """Exited, and everything handed on: that is its end."""
        if self._exit is not None and all(outlet.empty for outlet in self._outlets.values()):
            self.end()

    def end(self) -> None:
        """Close everything and tell."""
        if self._timer is not None:
            self._timer.cancel()
        on_end, self._on_end = self._on_end, _nothing
        for stream, outlet in self._outlets.items():
            outlet.close()
            self._close_stream(stream)
        self._close_stream(0)
        self._commands.forget(self._number)
        if self._exit is not None:
            on_end(self._exit)


def _nothing(_how: Exit) -> None:
    pass


_HANDLERS: dict[int, tuple[int, Callable[[Command, bytes], None]]] = {
    wire.STARTED: (_PID.size, Command._started),
    wire.OUTPUT: (1, Command._output),
    wire.INPUT_CREDIT: (_U32.size, Command._input_credit),
    wire.CLOSE: (1, Command._input_closed),
    wire.EXIT: (8, Command._ended),
}
