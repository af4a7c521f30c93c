"""Further commands beside the workload: started on the host's request, each with streams and an exit code of its own.

A command is its number, chosen by the host, which only rises (docs/control-port.md). Frames for one that has ended may
still be on their way and are ignored.
"""

from __future__ import annotations

from _struct import Struct

from krun_init import _linux, channels, command, execution, rlimits
from krun_init import control as frames
from krun_init.errors import SETUP_FAILED, Ending, InitError, ProtocolError, reason_of
from krun_init.loop import IN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.command import Command
    from krun_init.control import Control, Values
    from krun_init.log import Log
    from krun_init.loop import Loop
    from krun_init.workload import Workload

_LARGEST = 4 << 20
"""Bytes of one description."""
_BACKLOG = 1 << 16
"""So many bytes that the host has not taken, and no output is read."""
_DESCRIPTORS = 1 << 16
_ENDED = "the VM ended: its own command has"

_EXIT = Struct("<ii")


class Commands:
    """Those of one VM.

    :param program: the workload, whose attributes a command has unless it is described otherwise.
    """

    def __init__(self, loop: Loop, control: Control, program: Workload, log: Log) -> None:
        self._loop = loop
        self._control = control
        self._program = program
        self._log = log
        self._poll: channels.Poll | None = None
        self._limit = (0, 0, 0)  # RLIMIT_NOFILE as it was
        self._last = 0
        self._described: dict[int, bytearray] = {}
        self._running: dict[int, Command] = {}
        self._by_pid: dict[int, Command] = {}
        self._over = False
        self._paused = False

    def __bool__(self) -> bool:
        """Whether one has not had its EXIT yet."""
        return bool(self._running)

    # -- what the host says ------------------------------------------------------------------------------------

    def on_frame(self, kind: int, number: int, values: Values) -> None:
        """Act on a frame for a command.

        :raise ProtocolError: one that must not be.
        """
        if kind in (frames.SPEC, frames.EXEC):
            self._describe(kind, number, values[0])
            return
        if number > self._last:
            raise ProtocolError(f"frame {kind:#x} for process {number}, which was never started")
        one = self._running.get(number)
        if one is not None:
            one.on_frame(kind, values)

    def _describe(self, kind: int, number: int, part: bytes) -> None:
        if number > self._last:
            self._last = number
            self._described[number] = bytearray()
        description = self._described.get(number)
        if description is None:
            raise ProtocolError(f"process {number} is described again")
        if len(description) <= _LARGEST:
            description += part
        if kind == frames.EXEC:
            del self._described[number]
            self._start(number, bytes(description))

    def _start(self, number: int, description: bytes) -> None:
        if self._over:
            self._report(number, _killed())
            return
        try:
            if len(description) > _LARGEST:
                raise InitError(f"the description has more than {_LARGEST} bytes")
            what = execution.parse(description, self._program, self._log)
            poll = self._poll or self._begin()
            if all(resource != self._limit[0] for resource, _soft, _hard in what.program.rlimits):
                what.program.rlimits.append(self._limit)  # ours is raised, and no business of theirs
            started = command.start(what)
        except InitError as error:
            started = Ending(SETUP_FAILED, 0, str(error))
        except OSError as error:  # whatever the guest is short of: no command is the end of init
            started = Ending(SETUP_FAILED, 0, f"a command could not be started: {reason_of(error)}")
        if isinstance(started, Ending):
            self._report(number, started)
            return
        pid, ends = started
        one = command.Command(number, pid, ends, what.terminal, self._control, poll, self._finished)
        self._running[number] = self._by_pid[pid] = one

    def _begin(self) -> channels.Poll:
        """The first one: open what none of the boots needs that run a single command."""
        try:
            self._limit = (rlimits.LINUX["RLIMIT_NOFILE"], *_linux.allow_descriptors(_DESCRIPTORS))
            self._poll = channels.Poll()
        except OSError as error:
            raise InitError(f"no further commands: {reason_of(error)}") from None
        self._control.on_sent = self._resume
        self._loop.add(self._poll.fileno(), IN, self._turn)
        return self._poll

    # -- streams -----------------------------------------------------------------------------------------------

    def _turn(self, _events: int) -> None:
        assert self._poll is not None
        self._poll.turn()
        if self._control.backlog >= _BACKLOG:
            self._paused = True
            self._loop.remove(self._poll.fileno())

    def _resume(self) -> None:
        if self._paused and self._poll is not None:
            self._paused = False
            self._loop.add(self._poll.fileno(), IN, self._turn)

    # -- ends --------------------------------------------------------------------------------------------------

    def reaped(self, pid: int, ending: Ending) -> None:
        """A child has ended; it may be one of ours."""
        one = self._by_pid.pop(pid, None)
        if one is not None:
            if self._over and ending.signal == command.SIGKILL:
                ending.reason = _ENDED
            one.finish(ending)

    def _finished(self, number: int, ending: Ending) -> None:
        del self._running[number]
        self._report(number, ending)

    def _report(self, number: int, ending: Ending) -> None:
        reason = ending.reason.encode("utf-8", "replace")[: frames.MAX_BODY - _EXIT.size]
        self._control.send(frames.EXIT, _EXIT.pack(ending.code, ending.signal) + reason, number)

    def end(self) -> None:
        """The workload has ended: so do they, and no new one begins."""
        self._over = True
        for one in list(self._by_pid.values()):
            one.signal(command.SIGKILL)

    def abandon(self) -> None:
        """No time is left: tell the ends of those that are not through."""
        for number, one in self._running.items():
            self._report(number, one.ending or _killed())
        self._running.clear()
        self._by_pid.clear()
        self._control.on_sent = None
        if self._poll is not None:
            self._loop.remove(self._poll.fileno())


def _killed() -> Ending:
    return Ending(128 + command.SIGKILL, command.SIGKILL, _ENDED)
