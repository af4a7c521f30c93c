"""The supervisor's half of the sandbox: fork the keeper, hear from it, end it."""

from __future__ import annotations

import os
import select
import signal
import time

from pykrun.errors import EngineError, SandboxError
from pykrun.record import record
from pykrun.sandbox import inside
from pykrun.sandbox.fork import Wish, check_single_thread, fork
from pykrun.sandbox.jail import REDUCED, Isolation, Jail

_SETUP_SECONDS = 20.0


@record(frozen=True, slots=True)
class Ended:
    """How a jailed program ended.

    :param status: the wait status (`os.waitstatus_to_exitcode` reads it), None when it was killed with its keeper.
    :param error: why it never ran, or empty.
    """

    status: int | None
    error: str = ""


class Inmate:
    """A program in its jail, as its supervisor sees it.

    :ivar pid: the keeper's process id; everything of the jail descends from it.
    :ivar pidfd: readable as soon as the keeper is gone.
    """

    def __init__(self, pid: int, pidfd: int, leash: int, report: int, level: str, note: str, required: bool) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._leash = leash
        self._report = report
        self._level = level
        self._note = note
        self._required = required
        self._heard = b""
        self._isolation: Isolation | None = None
        self._folder = ""
        self._error = ""
        self._status: int | None = None
        self._ended: Ended | None = None

    @property
    def isolation(self) -> Isolation:
        """The isolation reached; waits (bounded) until the program is about to be executed.

        :raise SandboxError: the required isolation is not to be had.
        :raise EngineError: the program could not be executed.
        """
        deadline = time.monotonic() + _SETUP_SECONDS
        while self._isolation is None and self._listen(max(0.0, deadline - time.monotonic())):
            pass
        if self._isolation is not None:
            return self._isolation
        if self._error:
            raise (SandboxError if self._required else EngineError)(self._error)
        return Isolation(self._level, "it ended before it was set up")

    def kill(self) -> None:
        """End everything in the jail now; returns at once, `reap` tells when it is over."""
        self._listen(0)
        if self._isolation is not None and self._isolation.level != REDUCED:
            self._signal()  # with its process 1 the kernel ends the whole namespace
            return
        try:
            os.write(self._leash, b"x")
        except OSError:
            pass
        if self._isolation is None and not self._folder:
            self._signal()

    def freeze(self) -> None:
        """Stop everything in the jail; `kill` ends it all the same."""
        from pykrun.sandbox.freeze import freeze  # hardly ever of use

        freeze(self.pid)

    def thaw(self) -> None:
        """Let it go on."""
        from pykrun.sandbox.freeze import thaw

        thaw(self.pid)

    def reap(self) -> Ended | None:
        """Collect the keeper if it has ended (its pidfd is readable then); None while it runs."""
        if self._ended is None:
            try:
                pid, _ = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid = self.pid
            if pid == 0:
                return None
            while self._listen(0):
                pass
            self._ended = Ended(self._status, self._error)
        return self._ended

    def close(self) -> None:
        """End what still runs, wait for it, and give every descriptor back; may be called again."""
        if self._leash < 0:
            return
        if self.reap() is None:
            self.kill()
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            if not poll.poll(5000):  # only a keeper of the reduced level can be slow
                self._signal()
                poll.poll(5000)
            self.reap()
        if self._folder and os.path.exists(self._folder):
            inside.remove_tree(self._folder)
        for descriptor in (self.pidfd, self._leash, self._report):
            os.close(descriptor)
        self._leash = -1

    def _signal(self) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _listen(self, timeout: float) -> bool:
        """Read what the keeper reports; False when nothing comes (any more)."""
        poll = select.poll()
        poll.register(self._report, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return False
        chunk = os.read(self._report, 65536)
        *lines, self._heard = (self._heard + chunk).split(b"\n")
        for line in lines:
            self._hear(line[:1], line[1:].decode("utf-8", "surrogateescape"))
        return bool(chunk)

    def _hear(self, kind: bytes, text: str) -> None:
        if kind == b"I":
            level, _, note = text.partition(" ")
            self._isolation = Isolation(level, note or self._note)
        elif kind == b"D":
            self._folder = text
        elif kind == b"E":
            self._error = self._error or text
        elif kind == b"X":
            self._status = int(text)


def start(jail: Jail, wish: Wish = "auto") -> Inmate:
    """Fork the keeper of a jail and return at once; the program is executed some milliseconds later.

    The caller must be single threaded. It keeps its copies of the jail's descriptors and sockets, and closes those that
    it does not need itself.

    :param wish: `require` refuses anything less than own namespaces.
    :raise SandboxError: the host's kernel allows no namespaces, and they were required.
    :raise EngineError: the process has threads, or the host can run no further process.
    """
    check_single_thread()
    leash_read, leash = os.pipe()
    report, report_write = os.pipe()
    supervisor = os.pidfd_open(os.getpid())
    caller = os.geteuid(), os.getegid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        level, pid, pidfd, note = fork(wish)
        if pid == 0:
            inside.run(
                jail,
                level=level,
                required=wish == "require",
                supervisor=supervisor,
                leash=leash_read,
                report=report_write,
                caller=caller,
                inherited=(leash, report),
            )
    except BaseException:
        os.close(leash)
        os.close(report)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for descriptor in (leash_read, report_write, supervisor):
            os.close(descriptor)
    return Inmate(pid, pidfd, leash, report, level, note, wish == "require")


def signal_name(number: int) -> str:
    """Return `SIGABRT`, or `signal 40` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
