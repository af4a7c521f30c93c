"""A server in a process of its own, forked from the supervisor, that can reach nothing but the descriptors it is given.

A device's server works for a hostile guest and may block in system calls for long. So it runs as a copy of the
supervisor (whose modules it shares) that has left everything behind: an empty root, namespaces, ids, capabilities,
descriptors, and by a filter all system calls but those of a Python loop. It executes nothing, and from then on it can
import nothing: what it needs was imported before the fork, or by its own `prepare` before it left anything behind.

Lines that go up the report pipe: `I<level> <note>` it is about to serve, `E<text>` why it ended.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from errno import EINVAL

from pykrun.errors import EngineError, PykrunError, SandboxError
from pykrun.host import linux
from pykrun.record import record
from pykrun.sandbox import filter as system_call_filter
from pykrun.sandbox import landlock
from pykrun.sandbox.child import (
    MOUNT_POINT,
    NOT_ALLOWED,
    PRIVATE_NAMESPACES,
    Refused,
    choose_identity,
    close_all_but,
    die_with,
    drop_privileges,
    enter_root,
    say,
)
from pykrun.sandbox.fork import Wish, check_single_thread, fork
from pykrun.sandbox.jail import FOLDER, LANDLOCK, REDUCED, Isolation
from pykrun.sandbox.start import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_SETUP_SECONDS = 20.0
_END_SECONDS = 5.0
_FAILED = 1
_FILE_CAPABILITIES = sum(1 << number for number in (0, 1, 3, 4, 6, 7, 27, 31))
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, MKNOD, SETFCAP: not DAC_READ_SEARCH, which opens by number."""


@record(frozen=True, slots=True, kw_only=True)
class Service:
    """What a servant is to do, and with what.

    :param name: for messages and the process list, up to 15 bytes.
    :param prepare: runs in the new process while it can still reach everything: imports what `serve` needs, beside a
        caller that goes on meanwhile.
    :param serve: runs in the sandbox until there is nothing more to serve; returns then. What it raises is told.
    :param descriptors: all that it has; they keep their numbers.
    :param allowed: system calls (names of `pykrun.host.numbers`) beside those of a loop with sockets and open files.
    :param folder: a directory of the host that it serves, with what is mounted there: its root, where it has namespaces
        of its own, and else all that it can open, where the kernel has Landlock. It keeps user and groups, and of the
        capabilities those over files; its working directory is a proc file system, which shows no other process where
        it has namespaces; it may start threads. None: its root is empty, and it is nobody.
    :param session: it has a session of its own. Without, it shares its caller's part of the CPU time (the scheduler
        groups processes by session, sched(7)): on a busy machine whoever waits for it waits half as long.
    """

    name: str
    serve: Callable[[], None]
    descriptors: tuple[int, ...]
    allowed: tuple[str, ...] = ()
    folder: str | None = None
    session: bool = True
    prepare: Callable[[], None] | None = None


class Servant:
    """A server's process, as its supervisor sees it.

    :ivar pid: its process id.
    :ivar pidfd: readable as soon as it has ended.
    """

    def __init__(self, name: str, pid: int, pidfd: int, report: int, level: str, note: str, required: bool) -> None:
        self.name = name
        self.pid = pid
        self.pidfd = pidfd
        self._report = report
        self._level = level
        self._note = note
        self._required = required
        self._heard = b""
        self._isolation: Isolation | None = None
        self._error = ""
        self._status: int | None = None

    @property
    def isolation(self) -> Isolation:
        """The isolation reached; waits (bounded) until it serves.

        :raise SandboxError: the required isolation is not to be had.
        :raise EngineError: it could not be set up.
        """
        deadline = time.monotonic() + _SETUP_SECONDS
        while self._isolation is None and self._listen(max(0.0, deadline - time.monotonic())):
            pass
        if self._isolation is not None:
            return self._isolation
        if self._error:
            raise (SandboxError if self._required else EngineError)(f"{self.name}: {self._error}")
        return Isolation(self._level, "it ended before it was set up")

    def reap(self) -> str | None:
        """Collect it when `pidfd` is readable: why it failed, empty when it had nothing more to do; None: it runs."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                pid, status = self.pid, signal.SIGKILL
            if pid == 0:
                return None
            self._status = status
            while self._listen(0):
                pass
        code = os.waitstatus_to_exitcode(self._status)
        if code == 0 or self._error:
            return self._error
        return f"its server was ended by {signal_name(-code)}" if code < 0 else f"its server exited with {code}"

    def close(self) -> None:
        """End it, wait (bounded: it may hang in a disk), and give every descriptor back. May be called again."""
        if self._report < 0:
            return
        if self.reap() is None:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            poll.poll(_END_SECONDS * 1000)
            self.reap()
        os.close(self.pidfd)
        os.close(self._report)
        self._report = -1

    def _listen(self, timeout: float) -> bool:
        """Read what it reports; False when nothing comes (any more)."""
        poll = select.poll()
        poll.register(self._report, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return False
        chunk = os.read(self._report, 65536)
        *lines, self._heard = (self._heard + chunk).split(b"\n")
        for line in lines:
            text = line[1:].decode("utf-8", "replace")
            if line[:1] == b"I":
                level, _, note = text.partition(" ")
                self._isolation = Isolation(level, note or self._note)
            else:
                self._error = self._error or text
        return bool(chunk)


def serve(service: Service, wish: Wish = "auto") -> Servant:
    """Fork a server and return at once; it serves some milliseconds later.

    The caller must be single threaded. It keeps its copies of the service's descriptors, and closes those that it does
    not need itself.

    :param wish: `require` refuses anything less than own namespaces.
    :raise SandboxError: the host's kernel allows no namespaces, and they were required.
    :raise EngineError: the process has threads, or the host can run no further process.
    """
    check_single_thread()
    report, report_write = os.pipe()
    supervisor = os.pidfd_open(os.getpid())
    caller = os.geteuid(), os.getegid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        # A user namespace would show other users' files as nobody's.
        level, pid, pidfd, note = fork("auto" if service.folder else wish, user_namespace=service.folder is None)
        if pid == 0:
            _run(service, level, wish == "require", supervisor, report_write, caller)
    except BaseException:
        os.close(report)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(report_write)
        os.close(supervisor)
    return Servant(service.name, pid, pidfd, report, level, note, wish == "require")


def _run(
    service: Service, level: str, required: bool, supervisor: int, report: int, caller: tuple[int, int]
) -> NoReturn:
    """The child's life; signals stay blocked, but for those that nothing can block."""
    gc.freeze()  # nothing of the supervisor's is collected here: its sockets' numbers may be somebody else's by now
    try:
        isolation = _enter(service, level, required, supervisor, report, caller)
        say(report, f"I{isolation.level} {isolation.note}")
        service.serve()
    except BaseException as error:  # the copy of the supervisor must not run on
        told = isinstance(error, PykrunError | Refused)
        say(report, "E" + (str(error) if told else f"{type(error).__name__}: {error}"))
        os._exit(_FAILED)
    os._exit(0)


def _enter(
    service: Service, level: str, required: bool, supervisor: int, report: int, caller: tuple[int, int]
) -> Isolation:
    """Leave everything behind; return the isolation reached."""
    die_with(supervisor)
    if service.session:
        os.setsid()  # what is typed at the supervisor's terminal is not for us
    else:
        os.setpgid(0, 0)
    if service.prepare is not None:
        service.prepare()
        gc.freeze()  # modules are for good: no collection needs to look at them
    note = ""
    identity = choose_identity(level, caller) if service.folder is None else None
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        if stream not in (*service.descriptors, supervisor, report, nothing):
            os.dup2(nothing, stream, inheritable=False)
    if level != REDUCED:
        try:
            _private_root(service.folder)
        except OSError as error:
            note = f"{error.filename or 'mount'}: {error.strerror}"
            if error.errno not in NOT_ALLOWED or (required and service.folder is None):
                raise Refused(note) from None
            level = REDUCED
    if service.folder is None:
        drop_privileges(identity)
    else:
        level = _keep_to_folder(service.folder, level, required)
    die_with(supervisor)  # the kernel forgot it when the ids changed
    close_all_but({0, 1, 2, report, *service.descriptors})
    linux.set_name(service.name)
    more = (*service.allowed, *(system_call_filter.FOLDER if service.folder else ()))
    linux.install_filter(system_call_filter.assemble_allowed(more, threads=service.folder is not None))
    return Isolation(level, note)


def _private_root(folder: str | None) -> None:
    """Make a folder or nothing the root; with a folder a proc file system, mounted nowhere, the working directory."""
    linux.unshare(PRIVATE_NAMESPACES)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    if folder is None:
        linux.mount("tmpfs", MOUNT_POINT, "tmpfs", flags | linux.MS_RDONLY, "size=4k,nr_inodes=2,mode=555")
        enter_root(MOUNT_POINT)
        return
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # /proc itself may be the folder, or on its way
    _mount_proc(flags | linux.MS_RDONLY)
    proc = os.open(MOUNT_POINT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    linux.mount(f"/proc/self/fd/{opened}", MOUNT_POINT, None, linux.MS_BIND | linux.MS_REC)
    enter_root(MOUNT_POINT)
    os.fchdir(proc)


def _mount_proc(flags: int) -> None:
    """Mount a proc file system of this process namespace, with processes alone where the kernel can (5.8)."""
    try:
        linux.mount("proc", MOUNT_POINT, "proc", flags, "subset=pid")
    except OSError as error:
        if error.errno != EINVAL:
            raise
        linux.mount("proc", MOUNT_POINT, "proc", flags)


def _keep_to_folder(folder: str, level: str, required: bool) -> str:
    """Give up everything but a folder, where that is not done already; return the level reached."""
    linux.set_no_new_privileges()
    linux.drop_bounding_set(_FILE_CAPABILITIES)
    linux.limit_capabilities(_FILE_CAPABILITIES)
    linux.set_dumpable(False)  # our memory is a copy of the supervisor's
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if level != REDUCED:
        return FOLDER
    os.chdir("/proc")
    if landlock.confine(folder):
        return LANDLOCK
    if required:
        raise Refused("this host allows no namespaces to a server of files, and its kernel has no Landlock")
    return REDUCED
