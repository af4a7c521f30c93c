"""PID 1 of FreeBSD while the workload runs: signals, children, the stop."""

from __future__ import annotations

import posix

from krun_init.errors import SETUP_FAILED, Ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # the module without underscore is in Python, and not in the blob

    from krun_init.freebsd_system import System
else:
    import _signal

STOPS = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGUSR1, _signal.SIGUSR2)
"""SIGTERM as everywhere; the others are how the kernel asks its init to reboot (INT), halt (USR1) or switch off (USR2),
when somebody presses the power button for example (kern_shutdown.c, shutdown_nice)."""

HELD = (_signal.SIGCHLD, *STOPS, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGALRM)
"""What init hears of; the rest of them is passed on to the workload."""

_AT_MOST = 3600.0  # seconds of one wait


class Watch:
    """One workload, from its start to its end.

    :param grace: seconds between TERM and KILL.
    """

    def __init__(self, system: System, pid: int, grace: float) -> None:
        self._system = system
        self._pid = pid
        self._grace = grace
        self._deadline: float | None = None  # of the stop

    def run(self) -> Ending:
        """Wait for the workload's end."""
        while True:
            signal = self._system.next_signal(HELD, self._patience())
            if signal == _signal.SIGCHLD:
                ending = self._reap()
                if ending is not None:
                    return ending
            elif signal in STOPS:
                self._stop()
            elif signal:
                self._send(signal)
            if self._patience() == 0:
                self._kill()

    def _patience(self) -> float:
        """Seconds to wait for a signal; 0 when the grace is over."""
        if self._deadline is None:
            return _AT_MOST
        return min(max(0.0, self._deadline - self._system.now()), _AT_MOST)

    def _reap(self) -> Ending | None:
        """Bury every child that has ended; the orphans of the machine are children of PID 1 too."""
        try:
            while True:
                pid, status = self._system.waitpid(-1, posix.WNOHANG)
                if pid == self._pid:
                    return _ending(status)
                if not pid:
                    return None
        except ChildProcessError:
            return Ending(SETUP_FAILED, 0, "the workload's process was lost")

    def _stop(self) -> None:
        """TERM now and KILL after the grace, which nobody can make longer by asking again."""
        self._send(_signal.SIGTERM)
        if self._deadline is None:
            self._deadline = self._system.now() + self._grace

    def _kill(self) -> None:
        self._deadline = None
        self._send(_signal.SIGKILL)

    def _send(self, signal: int) -> None:
        """To the workload's process group, or to itself as long as it has not made one, and when it has left it."""
        try:
            self._system.killpg(self._pid, signal)
        except OSError:
            try:
                self._system.kill(self._pid, signal)
            except OSError:
                pass


def _ending(status: int) -> Ending:
    if posix.WIFSIGNALED(status):
        signal = posix.WTERMSIG(status)
        return Ending(128 + signal, signal)
    return Ending(posix.WEXITSTATUS(status))
