"""PID 1 while the workload runs: signals, children, the host's frames, the streams, and the drain at the end."""

from __future__ import annotations

import posix
import time

from krun_init import control as frames
from krun_init import session
from krun_init.errors import SETUP_FAILED, Ending
from krun_init.loop import IN, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.commands import Commands
    from krun_init.control import Control, Values
    from krun_init.relay import Input, Output
    from krun_init.timesync import Clock

SIGKILL, SIGPIPE, SIGTERM, SIGCHLD, SIGSTOP = 9, 13, 15, 17, 19
_LAST_SIGNAL = 64
# Of no use to the workload: not catchable, init's own, its terminal's, or its own faults.
_KEPT = (4, 5, 7, 8, SIGKILL, 11, SIGPIPE, SIGSTOP, 21, 22, 31, 32, 33)
REPORTED = ((1 << _LAST_SIGNAL) - 1) & ~sum(1 << signal - 1 for signal in _KEPT)
"""The signals that PID 1 hears of, as a mask for `_linux.signalfd`."""

_SIGINFO_SIZE = 128  # uapi/linux/signalfd.h; begins with the signal's number
_SILENCE = 5.0
_AFTER_KILL = 1.0
"""Seconds for the output of a workload that had to be killed."""


class Watch:
    """One workload, from its start to the last byte of its output.

    :param signals: the signalfd of `REPORTED`.
    :param grace: seconds between TERM and KILL when a signal asks for the stop.
    :param clock: is held to the host's.
    """

    def __init__(
        self, loop: Loop, signals: int, control: Control | None, grace: float, clock: Clock | None = None
    ) -> None:
        self.outputs: dict[int, Output] = {}
        self.input: Input | None = None
        self.terminal = -1
        self.commands: Commands | None = None
        self._loop = loop
        self._signals = signals
        self._control = control
        self._grace = grace
        self._clock = clock
        self._time = 0
        self._pid = 0
        self._ending: Ending | None = None
        self._acknowledged = False
        self._silent = False
        self._deadline: float | None = None  # of the stop
        self._overdue = False
        loop.add(signals, IN, self._on_signal)  # the first: a turn hears of the workload's end before its streams do

    def run(self, pid: int) -> Ending:
        """Watch until the workload has ended and the host has its output."""
        self._pid = pid
        if self._control is not None:
            self._control.started(pid)
            self._control.attach(self._loop)
            self._control.listen(self._on_frame)
        if self._clock is not None:
            self._clock.attach(self._loop)
        while self._ending is None:
            self._loop.turn()
        self._drain()
        return self._ending

    # -- children and signals ----------------------------------------------------------------------------------

    def _on_signal(self, _events: int) -> None:
        try:
            data = posix.read(self._signals, 8 * _SIGINFO_SIZE)
        except BlockingIOError:
            return
        for offset in range(0, len(data), _SIGINFO_SIZE):
            signal = data[offset]
            if signal == SIGCHLD:
                self._reap()
            elif signal == SIGTERM:
                self._stop(self._grace)
            else:
                self._signal(signal)

    def _reap(self) -> None:
        """Bury every child that has ended; the orphans of the machine are children of PID 1 too."""
        try:
            while True:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
                if pid == self._pid:
                    self._ending = _ending(status)
                    if self.input is not None:
                        self.input.close()
                if not pid:
                    return
                if self.commands is not None:
                    self.commands.reaped(pid, _ending(status))
        except ChildProcessError:
            if self._ending is None:
                self._ending = Ending(SETUP_FAILED, 0, "the workload's process was lost")

    def _signal(self, signal: int) -> None:
        """Send to the workload's process group."""
        if self._ending is not None or not 0 < signal <= _LAST_SIGNAL:
            return
        try:
            posix.killpg(self._pid, signal)
        except ProcessLookupError:
            self._signal_leader(signal)
        except OSError:
            pass

    def _signal_leader(self, signal: int) -> None:
        """Send to the workload itself, which may have left the group that it led."""
        try:
            posix.kill(self._pid, signal)
        except OSError:
            pass

    def _stop(self, grace: float) -> None:
        """TERM now, the end of all patience after the grace; whoever asks again can only make it shorter."""
        self._signal(SIGTERM)
        deadline = time.monotonic() + grace
        if self._deadline is None or deadline < self._deadline:
            self._deadline = deadline
            self._loop.after("grace", grace, self._kill)

    def _kill(self) -> None:
        """The grace is over: a workload that still runs is killed, one that has ended has had its time to drain."""
        if self._ending is not None:
            self._overdue = True
            return
        self._signal(SIGKILL)
        self._signal_leader(SIGKILL)
        self._loop.after("grace", _AFTER_KILL, self._give_up)

    # -- the host's frames -------------------------------------------------------------------------------------

    def _on_frame(self, kind: int, process: int, values: Values) -> None:
        if process:
            if self.commands is not None:
                self.commands.on_frame(kind, process, values)
        elif kind == frames.SIGNAL:
            self._signal(values[0])
        elif kind == frames.STOP:
            self._stop(values[0] / 1000)
        elif kind == frames.STDIN_END:
            if self.input is not None:
                self.input.end(values[0])
        elif kind == frames.CLOSE_OUTPUT:
            output = self.outputs.get(values[0])
            if output is not None:
                output.close()
        elif kind == frames.RESIZE:
            if self.terminal >= 0:
                session.resize(self.terminal, *values)
        elif kind == frames.TIME:
            self._time = values[0]  # the newest: others may follow in the same turn
            self._loop.after("time", 0, self._set_clock)
        elif kind == frames.ACK:
            self._acknowledged = True
        elif kind == frames.DRAINING and self._ending is not None:
            self._loop.after("silence", _SILENCE, self._fall_silent)

    def _set_clock(self) -> None:
        if self._clock is not None:
            self._clock.hear(self._time)

    # -- the end -----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Move what the pipes hold, tell the counts, wait until the host has handed everything on."""
        if self.terminal >= 0:
            session.drain(self.terminal)
        if self.commands is not None:
            self.commands.end()
            if self.commands:
                self._loop.after("commands", _AFTER_KILL, self._give_commands_up)
        for output in self.outputs.values():
            output.close_after_drain()
        while not self._overdue and not all(output.closed for output in self.outputs.values()):
            self._loop.turn()
        control = self._control
        if control is None or control.fd is None:
            return
        self._acknowledged = False  # one that came before COUNTS means nothing
        counts = [self.outputs[stream].count if stream in self.outputs else 0 for stream in (1, 2)]
        control.counts(*counts)
        self._silent = False
        self._loop.after("silence", _SILENCE, self._fall_silent)
        while not (self._acknowledged or self._silent or self._overdue) and control.fd is not None:
            self._loop.turn()
        while self.commands and not self._overdue and control.fd is not None:
            self._loop.turn()
        self._give_commands_up()

    def _give_commands_up(self) -> None:
        if self.commands:
            self.commands.abandon()

    def _fall_silent(self) -> None:
        self._silent = True

    def _give_up(self) -> None:
        """The kill has not ended it (it hangs in the kernel), or its output does not end: the machine goes on."""
        self._overdue = True
        if self._ending is None:
            self._ending = Ending(128 + SIGKILL, SIGKILL, "the workload could not be killed")


def _ending(status: int) -> Ending:
    if posix.WIFSIGNALED(status):
        signal = posix.WTERMSIG(status)
        return Ending(128 + signal, signal)
    return Ending(posix.WEXITSTATUS(status))
