"""FreeBSD as its init meets it: paths, numbers of its headers, and every call that leaves a trace in the machine.

One object, so that tests can put a recording in its place: this init is built where no FreeBSD runs.
"""

from __future__ import annotations

import _socket
import fcntl
import posix
import time

from krun_init import _freebsd, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # the module without underscore is in Python, and not in the blob
    from collections.abc import Iterable
else:
    import _signal


class Facts:
    """Where things are, and what FreeBSD's headers call by a number. The same on amd64 and arm64."""

    console = "/dev/console"
    null = "/dev/null"
    log = "/init.log"
    config = "/.krun_config.json"
    disk = "/dev/iso9660/KRUN_CONFIG"
    disk_folder = "/mnt"
    disk_config = "/mnt/krun_config.json"

    TIOCSCTTY = 0x20007461  # sys/ttycom.h
    SIOCSIFFLAGS = 0x80206910  # sys/sockio.h
    SIOCAIFADDR = 0x8044692B  # sys/sockio.h
    IFF_UP = 0x1  # net/if.h
    MNT_RDONLY = 0x1  # sys/mount.h
    MNT_UPDATE = 0x10000
    MNT_FORCE = 0x80000


class System(Facts):
    """The real ones. Each raises OSError as its manual page says."""

    # of FreeBSD only
    kenv = staticmethod(_freebsd.kenv)
    revoke = staticmethod(_freebsd.revoke)
    setlogin = staticmethod(_freebsd.setlogin)
    nmount = staticmethod(_freebsd.nmount)
    unmount = staticmethod(_freebsd.unmount)
    mounts = staticmethod(_freebsd.mounts)
    sethostname = staticmethod(_freebsd.sethostname)
    setrlimit = staticmethod(_freebsd.setrlimit)
    no_new_privs = staticmethod(_freebsd.no_new_privs)

    # files and terminals
    open = staticmethod(posix.open)
    close = staticmethod(posix.close)
    dup2 = staticmethod(posix.dup2)
    ioctl = staticmethod(fcntl.ioctl)
    mkdir = staticmethod(posix.mkdir)
    chdir = staticmethod(posix.chdir)
    stat = staticmethod(posix.stat)
    sync = staticmethod(posix.sync)

    # processes
    getpid = staticmethod(posix.getpid)
    fork = staticmethod(posix.fork)
    execve = staticmethod(posix.execve)
    waitpid = staticmethod(posix.waitpid)
    kill = staticmethod(posix.kill)
    killpg = staticmethod(posix.killpg)
    exit = staticmethod(posix._exit)
    end_processes = staticmethod(processes.end_all)
    setsid = staticmethod(posix.setsid)
    setpgid = staticmethod(posix.setpgid)
    umask = staticmethod(posix.umask)
    setgroups = staticmethod(posix.setgroups)
    setresgid = staticmethod(posix.setresgid)
    setresuid = staticmethod(posix.setresuid)
    now = staticmethod(time.monotonic)

    def keep(self, fd: int) -> None:
        """Let programs that are executed have the descriptor."""
        posix.set_inheritable(fd, True)

    def make_blocking(self, fd: int) -> None:
        """Clear O_NONBLOCK."""
        posix.set_blocking(fd, True)

    def socket_ioctl(self, code: int, request: bytes) -> None:
        """An ioctl(2) on a socket of no other use (netintro(4))."""
        control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
        try:
            fcntl.ioctl(control.fileno(), code, request)
        finally:
            control.close()

    def hold_signals(self, signals: Iterable[int]) -> None:
        """Block the signals, for `next_signal`.

        The kernel drops a signal whose action is to be ignored even when it is blocked, and SIGCHLD's is by default
        (kern_sig.c, tdsendsignal): a handler that never runs keeps it.
        """
        _signal.signal(_signal.SIGCHLD, _nothing)
        _signal.pthread_sigmask(_signal.SIG_BLOCK, signals)

    def release_signals(self) -> None:
        """Undo everything, before another program is executed."""
        for signal in (_signal.SIGCHLD, _signal.SIGPIPE, _signal.SIGXFSZ):
            _signal.signal(signal, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())

    def next_signal(self, signals: Iterable[int], seconds: float) -> int:
        """Wait for one of the blocked signals, which is then no longer pending; 0 when none came in time."""
        found = _signal.sigtimedwait(signals, seconds)
        return 0 if found is None else found.si_signo


def _nothing(_signal: int, _frame: object) -> None:
    pass
