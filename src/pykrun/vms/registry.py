"""Which VMs there are.

Each has a folder under its name with three files: `lock`, which its supervisor has locked for as long as it lives, the
`socket` of its door, and `state.json`. The kernel drops the lock when the supervisor ends, however it ends: a folder
whose lock is free is what a dead one has left, whatever is in it.

A folder gets its name when it is complete, and loses it before it is taken apart, both by a rename. Whoever wants to
remove one has to have its lock. So nobody waits for anybody, and nobody sees half of a VM.

A POSIX lock (fcntl(2)) is the process': forks do not have it, F_GETLK tells whose it is, and it is gone when *any*
descriptor of the file is closed there. So a supervisor must not look for VMs itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time

from pykrun.errors import UsageError
from pykrun.record import record
from pykrun.vms.directory import Directory, runtime_path
from pykrun.vms.names import check_name, make_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

VERSION = 1
"""Of state.json."""
LOCK, SOCKET, STATE = "lock", "socket", "state.json"
_NEW, _DEAD = ".new-", ".dead-"
_LONGEST_STATE = 1 << 20
_ATTEMPTS = 64
_BACKLOG = 1024
_HALF = 60.0
"""Seconds after which a folder without a name is nobody's work in progress any more."""
_FLOCK = struct.Struct("hhqqi4x")
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@record(frozen=True, slots=True, kw_only=True)
class Listed:
    """A VM that runs.

    :param pid: its supervisor; 0 when that is in a process namespace that cannot be seen from here.
    :param state: what is in state.json, from a process of this user; empty when that is not written yet.
    """

    name: str
    pid: int
    state: Mapping[str, Any]


class Entry:
    """The listing of one VM, from its supervisor's side.

    :ivar name: what it is called.
    :ivar listener: the socket of its door; whoever serves it closes it.
    """

    def __init__(self, directory: Directory) -> None:
        from socket import AF_UNIX, SOCK_STREAM, socket

        self._directory = directory
        self.name = f"{_NEW}{os.urandom(6).hex()}"
        os.mkdir(self.name, 0o700, dir_fd=directory.descriptor)
        self._folder = self._lock = -1
        self.listener = socket(AF_UNIX, SOCK_STREAM)
        try:
            self._folder = os.open(self.name, os.O_RDONLY | _FOLDER, dir_fd=directory.descriptor)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._lock = os.open(LOCK, flags, 0o600, dir_fd=self._folder)
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(self.listener.fileno(), 0o600)
            self.listener.bind(f"/proc/self/fd/{self._folder}/{SOCKET}")  # however long the folder's own path is
            self.listener.listen(_BACKLOG)
            self.listener.setblocking(False)
        except BaseException:
            self.close()
            raise

    def rename(self, name: str) -> bool:
        """Take a name; False when it is taken.

        :raise OSError: the directory cannot be changed.
        """
        directory = self._directory.descriptor
        try:
            os.rename(self.name, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            return False
        self.name = name
        return True

    def bury(self, name: str) -> bool:
        """Remove what a dead VM of that name has left; False when it is alive."""
        return _bury(self._directory, name)

    def owner(self, name: str) -> int | None:
        """Whose VM has that name."""
        return _owner(self._directory, name)

    def write(self, state: Mapping[str, Any]) -> None:
        """Say what others may read; where it cannot be written, they read what it was before."""
        import json

        new = f"{STATE}.new"
        data = json.dumps({"version": VERSION, "name": self.name, "pid": os.getpid(), **state}).encode()
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
            try:
                complete = os.write(descriptor, data) == len(data)
            finally:
                os.close(descriptor)
            if complete:
                os.rename(new, STATE, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError:
            pass

    def close(self) -> None:
        """List it no longer, and close the listener; harmless when repeated."""
        self.listener.close()
        if self._directory.descriptor < 0:
            return
        if self._folder >= 0:
            try:
                here = os.stat(self.name, dir_fd=self._directory.descriptor, follow_symlinks=False)
                if os.path.samestat(here, os.fstat(self._folder)):
                    _take_apart(self._directory, self.name)
            except OSError:
                pass  # somebody has removed it
            os.close(self._folder)
        if self._lock >= 0:
            os.close(self._lock)
        self._directory.close()
        self._directory.descriptor = -1
        _remove_empty(self._directory.path)


def register(name: str | None = None) -> Entry | None:
    """List this process' VM.

    :param name: None for one that is made up; then None is returned where VMs cannot be listed.
    :raise UsageError: there can be no such name, another VM has it, or VMs cannot be listed.
    """
    if name is None:
        try:
            return _register(None)
        except (OSError, UsageError):
            return None
    check_name(name)
    try:
        return _register(name)
    except OSError as error:
        raise UsageError(
            f"VM {name!r} cannot be listed in {runtime_path()}: {error.strerror}", "without a name it runs unlisted"
        ) from None


def _register(name: str | None) -> Entry:
    for attempt in range(_ATTEMPTS):
        try:
            entry = Entry(Directory(make=True))
        except FileNotFoundError:  # who was the last one there has removed the directory meanwhile
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        try:
            _take_name(entry, name)
        except BaseException:
            entry.close()
            raise
        return entry
    raise AssertionError("the last attempt returns or raises")


def _take_name(entry: Entry, name: str | None) -> None:
    for attempt in range(_ATTEMPTS):
        wanted = make_name() + (f"-{attempt}" if attempt > 8 else "") if name is None else name
        if entry.rename(wanted):
            return
        if entry.bury(wanted) or name is None:
            continue
        if (pid := entry.owner(name)) is not None:
            raise taken(name, pid)
    raise UsageError(f"there is something in the way of a VM named {name!r}", f"remove it from {runtime_path()}")


def taken(name: str, pid: int) -> UsageError:
    """The error that a VM has that name."""
    whose = f", of process {pid}" if pid else ""
    return UsageError(
        f"there is a VM named {name!r} already{whose}", f"choose another name, or end it: pykrun stop {name}"
    )


def check_free(name: str) -> None:
    """Look whether a VM could be called so now.

    :raise UsageError: no VM can, another one is, or the runtime directory is not this user's alone.
    """
    check_name(name)
    try:
        with Directory(make=False) as directory:
            pid = _owner(directory, name)
    except OSError:
        return
    if pid is not None:
        raise taken(name, pid)


def listed() -> list[Listed]:
    """Return the VMs that run, by name; what dead ones have left is removed.

    :raise UsageError: the runtime directory is not this user's alone.
    :raise OSError: it cannot be read.
    """
    found = []
    try:
        directory = Directory(make=False)
    except FileNotFoundError:
        return []
    with directory:
        for name in sorted(os.listdir(directory.descriptor)):
            if name.startswith("."):
                _sweep(directory, name)
            elif (pid := _owner(directory, name)) is not None:
                found.append(Listed(name=name, pid=pid, state=_state(directory, name)))
            else:
                _bury(directory, name)
    if not found:
        _remove_empty(directory.path)
    return found


def open_folder(name: str) -> int | None:
    """Return a descriptor of a running VM's folder, the caller's to close; None when there is no such VM.

    :raise UsageError: the runtime directory is not this user's alone.
    """
    try:
        with Directory(make=False) as directory:
            if _owner(directory, name) is None:
                return None
            return os.open(name, os.O_PATH | _FOLDER, dir_fd=directory.descriptor)
    except OSError:
        return None


def _owner(directory: Directory, name: str) -> int | None:
    """Whose VM it is; None for nobody's."""
    try:
        lock = os.open(f"{name}/{LOCK}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.descriptor)
    except OSError:
        return None
    try:
        kind, _, _, _, pid = _FLOCK.unpack(
            fcntl.fcntl(lock, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        )
    except OSError:
        return None
    finally:
        os.close(lock)
    return None if kind == fcntl.F_UNLCK else int(pid)


def _bury(directory: Directory, name: str) -> bool:
    """Remove a VM's folder if its supervisor is dead; whether it is gone.

    Of those who find it only one gets the lock, and nobody else gives its name away meanwhile.
    """
    path, flags = f"{name}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        lock = os.open(path, flags, 0o600, dir_fd=directory.descriptor)
    except FileNotFoundError:
        return True
    except OSError:  # no folder at all: not of our making
        return False
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = os.stat(path, dir_fd=directory.descriptor, follow_symlinks=False)
        if os.path.samestat(there, os.fstat(lock)):
            _take_apart(directory, name)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _sweep(directory: Directory, name: str) -> None:
    """Remove what was left half made, or half taken apart."""
    if not name.startswith((_NEW, _DEAD)):
        return
    try:
        age = time.time() - os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False).st_mtime
    except OSError:
        return
    if age > _HALF:
        _bury(directory, name)


def _take_apart(directory: Directory, name: str) -> None:
    dead = f"{_DEAD}{os.urandom(6).hex()}"
    os.rename(name, dead, src_dir_fd=directory.descriptor, dst_dir_fd=directory.descriptor)
    folder = os.open(dead, os.O_RDONLY | _FOLDER, dir_fd=directory.descriptor)
    try:
        for file in os.listdir(folder):
            os.unlink(file, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(dead, dir_fd=directory.descriptor)


def _state(directory: Directory, name: str) -> Mapping[str, Any]:
    import json

    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(f"{name}/{STATE}", flags, dir_fd=directory.descriptor)
    except OSError:
        return {}
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return {}
        try:
            state = json.loads(file.read(_LONGEST_STATE))
        except (OSError, ValueError, RecursionError):
            return {}
    return state if isinstance(state, dict) else {}


def _remove_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass
