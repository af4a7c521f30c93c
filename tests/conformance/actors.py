"""Users who make system calls: each a process of its own with its ids, which keeps them while it lives."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

from pykrun.host import files

NOW, OMIT = -1, -2
"""As a time: the present, and leave it alone."""


class Who(NamedTuple):
    """A user with a group and more groups."""

    uid: int
    gid: int
    more: tuple[int, ...] = ()

    def __str__(self) -> str:
        return ":".join(map(str, (self.uid, self.gid, *self.more)))


ROOT = Who(0, 0)
OWNER = Who(65534, 65533, (65532,))
MEMBER = Who(65530, 65533)
OTHER = Who(65529, 65528)
STRANGER = Who(65534, 65520)
"""The owner's user, in none of the owner's groups."""
EVERYBODY = (ROOT, OWNER, MEMBER, OTHER)


class Actor:
    """A process that is `who`. `ask` has it make a call; the answer is the errno's name, or what the call said."""

    def __init__(self, who: Who) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                os.closerange(3, theirs.fileno())  # other actors' among them: who holds those keeps them alive
                os.closerange(theirs.fileno() + 1, 1 << 12)
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                os.setgroups(who.more)
                os.setresgid(who.gid, who.gid, who.gid)
                os.setresuid(who.uid, who.uid, who.uid)
                _serve(theirs)
                status = 0
            finally:
                os._exit(status)
        theirs.close()

    def ask(self, name: str, *arguments: Any) -> str:
        self._ours.send(json.dumps([name, *arguments]).encode())
        answer = self._ours.recv(65536).decode()
        assert answer, f"{name} {arguments} ended the process that made it"
        return answer

    def close(self) -> None:
        self._ours.close()
        os.waitpid(self.pid, 0)


def _serve(link: socket.socket) -> None:
    while request := link.recv(65536):
        name, *arguments = json.loads(request)
        try:
            answer = CALLS[name](*arguments)
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, str(error))
        link.send(str(answer if answer is not None else "done").encode())


# The calls. All umasks are 0 but where one is given.

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def create(path: str, mode: int = 0o644, umask: int = 0) -> None:
    _masked(umask, lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)))


def _masked(umask: int, make: Callable[[], Any]) -> None:
    os.umask(umask)
    try:
        make()
    finally:
        os.umask(0)


def mkdir(path: str, mode: int = 0o755, umask: int = 0) -> None:
    _masked(umask, lambda: os.mkdir(path, mode))


def mkfifo(path: str, mode: int = 0o644, umask: int = 0) -> None:
    _masked(umask, lambda: os.mkfifo(path, mode))


def mknod(path: str, kind: str, mode: int = 0o644, umask: int = 0, major: int = 1, minor: int = 3) -> None:
    kinds = {"block": stat.S_IFBLK, "char": stat.S_IFCHR, "fifo": stat.S_IFIFO, "file": stat.S_IFREG}
    _masked(umask, lambda: os.mknod(path, kinds[kind] | mode, os.makedev(major, minor)))


def bind(path: str, umask: int = 0) -> None:
    """Make a socket."""
    folder, name = os.path.split(path)
    place = os.open(folder, os.O_PATH)  # an address has 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as one:
            _masked(umask, lambda: one.bind(f"/proc/self/fd/{place}/{name}"))
    finally:
        os.close(place)


def opened(path: str, flags: int, mode: int = 0o644, *steps: list[Any]) -> str:
    """Open, do `steps` with what is open, say what each came to, and close."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, mode)
    answers = ["open"]
    try:
        for name, *arguments in steps:
            try:
                answer = OPEN_CALLS[name](descriptor, *arguments)
            except OSError as error:
                answer = errno.errorcode.get(error.errno or 0, str(error))
            answers.append(f"{name} {'done' if answer is None else answer}")
    finally:
        os.close(descriptor)
    return ", ".join(answers)


def _allocate(descriptor: int, offset: int, length: int) -> None:
    if error := _libc.posix_fallocate64(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(error, "")


def _mode_of(descriptor: int) -> str:
    found = os.fstat(descriptor)
    return f"{found.st_mode:o} {found.st_size}"


def _write(descriptor: int, text: str, offset: int = 0) -> int:
    return os.pwrite(descriptor, text.encode(), offset)


OPEN_CALLS: dict[str, Callable[..., Any]] = {
    "write": _write,
    "read": lambda descriptor, size: os.read(descriptor, size),
    "ftruncate": lambda descriptor, size: _checked(_libc.ftruncate64(descriptor, ctypes.c_int64(size))),
    "posix_fallocate": _allocate,
    "fallocate": lambda descriptor, mode, offset, length: files.allocate(descriptor, mode, offset, length),
    "fchmod": os.fchmod,
    "fchown": os.fchown,
    "fstat": _mode_of,
    "unlink": lambda descriptor, path: os.unlink(path),
    "fsync": os.fsync,
}


def truncate(path: str, size: int) -> None:
    _checked(_libc.truncate64(path.encode(), ctypes.c_int64(size)))


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_UTIME = {NOW: (0, (1 << 30) - 1), OMIT: (0, (1 << 30) - 2)}


def utimensat(path: str, atime: int, mtime: int, follow: bool = True) -> None:
    """Times in nanoseconds, NOW or OMIT."""
    times = (_Time * 2)(*(_Time(*_UTIME.get(time) or divmod(time, 1_000_000_000)) for time in (atime, mtime)))
    _checked(_libc.utimensat(-100, path.encode(), times, 0 if follow else 0x100))


def utimes_null(path: str) -> None:
    """The present, in the way that everybody may who may write."""
    _checked(_libc.utimensat(-100, path.encode(), None, 0))


def listing(path: str) -> str:
    return f"names {sorted(os.listdir(path))}"


def execute(path: str) -> int:
    return subprocess.run([path], stdout=subprocess.DEVNULL, check=False).returncode


def statfs_flags(path: str) -> str:
    return f"longest name {os.statvfs(path).f_namemax}"


CALLS: dict[str, Callable[..., Any]] = {
    "create": create,
    "mkdir": mkdir,
    "mkfifo": mkfifo,
    "mknod": mknod,
    "bind": bind,
    "symlink": os.symlink,
    "link": lambda path, new: os.link(path, new, follow_symlinks=False),
    "link_followed": lambda path, new: _checked(_libc.linkat(-100, path.encode(), -100, new.encode(), 0x400)),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "rename": os.rename,
    "chmod": os.chmod,
    "chown": os.chown,
    "lchown": os.lchown,
    "truncate": truncate,
    "utimensat": utimensat,
    "utimes_null": utimes_null,
    "open": opened,
    "listing": listing,
    "readlink": os.readlink,
    "access": lambda path, mode: os.access(path, mode, effective_ids=True),
    "stat": lambda path: f"{os.stat(path).st_mode:o}",
    "execute": execute,
    "statfs": statfs_flags,
}
