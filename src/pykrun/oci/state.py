"""The containers of one `--root`: a folder for each, named by its id.

ROOT/ID/lock         held by the supervisor (fcntl(2)) for as long as it lives: gone with it, however it ends
ROOT/ID/state.json   what the verb `state` shows, written as a whole by the supervisor
ROOT/ID/socket       the supervisor listens there
ROOT/ID/root         where the supervisor composes the root file system, in a mount namespace of its own
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself would import enum
import errno
import fcntl
import os
import struct
import time

from pykrun.errors import UsageError
from pykrun.plain_json import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_HALF = 60.0
"""Seconds after which a folder without a state is nobody's work in progress any more."""
_FLOCK = struct.Struct("hhqqi4x")
"""`struct flock` of 64-bit machines: type, whence, start, length, pid."""


def default_root() -> str:
    """Where the containers of this user are when `--root` does not say."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{folder}/pykrun-oci" if folder.startswith("/") and os.geteuid() else "/run/pykrun-oci"


class Container:
    """The folder of one container.

    :raise UsageError: that can be no id.
    """

    def __init__(self, root: str, name: str) -> None:
        if not name or len(name) > 255 or not _LETTERS.issuperset(name) or name in (".", ".."):
            raise UsageError(f"invalid container ID format: {name!r}", "letters, digits and _ + - . of ASCII")
        self.name = name
        self.folder = os.path.join(root, name)

    def path(self, name: str) -> str:
        """The path of one of its files."""
        return f"{self.folder}/{name}"

    def make(self) -> int:
        """Make the folder; return a descriptor of its lock, which nobody has.

        :raise UsageError: there is one of that id.
        """
        os.makedirs(os.path.dirname(self.folder), 0o711, exist_ok=True)
        try:
            os.mkdir(self.folder, 0o700)
        except FileExistsError:
            raise UsageError(f"container with given ID already exists: {self.name}") from None
        return os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def is_wreck(self) -> bool:
        """Whether those who made it ended meanwhile, and nobody heard of a container."""
        if self.supervisor():
            return False
        try:
            return bool(self._kept()["status"] == CREATING)  # which it has had the lock for
        except FileNotFoundError:
            pass
        try:
            return time.time() - os.stat(self.folder).st_mtime > _HALF
        except FileNotFoundError:
            return False

    def claim(self) -> int:
        """Take the lock of a folder that is to go, so that nobody becomes its supervisor any more; close it afterwards.

        :return: -1 when there is none.
        :raise BlockingIOError: there is a supervisor.
        """
        try:
            lock = os.open(self.path("lock"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1
        try:
            take(lock)
        except FileNotFoundError:
            pass  # somebody else removes it
        except BaseException:
            os.close(lock)
            raise
        return lock

    def supervisor(self) -> int:
        """The supervisor's pid; 0 when it has ended."""
        try:
            lock = os.open(self.path("lock"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, *_, pid = _FLOCK.unpack(fcntl.fcntl(lock, fcntl.F_GETLK, asked))
        finally:
            os.close(lock)
        return 0 if kind == fcntl.F_UNLCK else int(pid)

    def kill(self) -> None:
        """Kill the supervisor, and nobody who has got its pid since; harmless when it has ended."""
        pid = self.supervisor()
        if not pid:
            return
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if self.supervisor() == pid:  # it still has the lock: so that process is the one
                signal.pidfd_send_signal(process, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(process)

    def read(self) -> dict[str, Any]:
        """What is kept of it, with the present status and pid.

        :raise UsageError: there is no such container.
        """
        try:
            kept = self._kept()
        except FileNotFoundError:
            raise UsageError("container does not exist", f"{self.name!r} in {os.path.dirname(self.folder)}") from None
        pid = self.supervisor()
        if not pid:
            kept["status"] = STOPPED
        kept["pid"] = pid
        return kept

    def _kept(self) -> dict[str, Any]:
        with open(self.path("state.json"), "rb") as file:
            kept: dict[str, Any] = loads(file.read())
        return kept

    def write(self, kept: dict[str, Any]) -> None:
        """Keep that, as a whole or not at all."""
        write_atomically(self.path("state.json"), dumps(kept, 2) + "\n")

    def remove(self) -> None:
        """Remove the folder; harmless when it is gone."""
        for name in ("socket", "state.json.new", "state.json", "lock"):
            try:
                os.unlink(self.path(name))
            except FileNotFoundError:
                pass
        for path in (self.path("root"), self.folder):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
                    raise


def shown(kept: dict[str, Any]) -> dict[str, Any]:
    """What of a state is the specification's."""
    return {name: value for name, value in kept.items() if name != "pykrun"}


def take(lock: int) -> None:
    """Take a container's lock, for this process' life; the descriptor must stay the only one of that file here.

    :raise BlockingIOError: somebody has it.
    :raise FileNotFoundError: its folder was removed.
    """
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not os.fstat(lock).st_nlink:
        raise FileNotFoundError(errno.ENOENT, "the container was removed meanwhile")


def write_atomically(path: str, text: str, mode: int = 0o644) -> None:
    """Write a file that others see whole or not at all. In its folder, too, nobody's link is followed."""
    new = f"{path}.new"
    try:
        os.unlink(new)  # of one who was killed meanwhile
    except FileNotFoundError:
        pass
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        data = text.encode()
        if os.write(file, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), new)
    finally:
        os.close(file)
    os.rename(new, path)


def names(root: str) -> list[str]:
    """The ids of the containers there, in order."""
    try:
        return sorted(name for name in os.listdir(root) if os.path.exists(f"{root}/{name}/state.json"))
    except FileNotFoundError:
        return []
