"""qemu-storage-daemon: serves an image that is not raw as a vhost-user block device, for an engine that knows raw ones.

It runs in a jail, with the image as the only file of the host's that it can write to. It has no way to be handed an
open image (QEMU's -add-fd), so it must be allowed to open it: where root starts it, it gets the ids of the image's
owner, and no capabilities.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from pathlib import Path

from pykrun.engine.running import QUIT
from pykrun.errors import MissingError
from pykrun.host.programs import find_program
from pykrun.machine import Disk
from pykrun.sandbox import FILES, Inmate, Isolation, Jail, Wish, shared_libraries, start

PROGRAM = "qemu-storage-daemon"
INSTALL = {"apt": "qemu-system-common", "dnf": "qemu-img", "pacman": "qemu-img"}
"""Package that brings it, by package manager."""

HIDDEN = 1 << 11
"""VIRTIO_BLK_F_CONFIG_WCE: it offers to switch its cache, and says that it is off while it is on (`wce` is 0, QEMU 7.2
to 9). The guest would believe it, and never flush. Without the feature, FLUSH alone says that there is a cache."""

_QUIT_SECONDS = 10.0
_LISTENER, _MONITOR = 3, 4  # descriptors in the jail


def find(format: str = "qcow2") -> Path:
    """Return the installed program.

    :param format: of the image that needs it, for the message.

    :raise MissingError: there is none.
    """
    program = find_program(PROGRAM)
    if program is None:
        raise MissingError(
            f"{format} disks on User Mode Linux need {PROGRAM}",
            f"install {INSTALL['apt']}, or use --engine qemu; `pykrun doctor` tells more",
        )
    return program


class StorageDaemon:
    """A running daemon.

    :ivar connection: connected to it; vhost-user, as a front end.
    :ivar pidfd: readable as soon as it has ended.
    """

    def __init__(self, connection: socket.socket, monitor: socket.socket, log: int, inmate: Inmate) -> None:
        self.connection = connection
        self.pidfd = inmate.pidfd
        self._monitor = monitor
        self._log = log
        self._inmate = inmate

    @property
    def pid(self) -> int:
        """The process that everything of it descends from."""
        return self._inmate.pid

    @property
    def isolation(self) -> Isolation:
        """The isolation reached; waits some milliseconds right after the start."""
        return self._inmate.isolation

    def await_connection(self) -> None:
        """Wait some milliseconds right after the start, until `connection` is connected.

        :raise SandboxError: the required isolation is not to be had.
        :raise EngineError: the program could not be executed.
        """
        self._inmate.isolation  # noqa: B018  # what connects it comes before the isolation is told

    def reap(self) -> str | None:
        """Return why it ended when `pidfd` is readable, empty when it was asked to; None while it runs."""
        ended = self._inmate.reap()
        if ended is None:
            return None
        if ended.error:
            return f"{PROGRAM} did not start: {ended.error}"
        if ended.status == 0:
            return ""
        said = os.read(self._log, 65536).decode(errors="replace").strip().splitlines() if _ready(self._log, 0) else []
        return said[0] if said else f"{PROGRAM} was ended"

    def close(self) -> None:
        """Have it write what it holds of the image's tables and end, in bounded time; give everything back."""
        if self._log < 0:
            return
        if self._inmate.reap() is None:
            try:
                self._monitor.send(QUIT, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
                _ready(self.pidfd, _QUIT_SECONDS)
            except OSError:
                pass
        self._inmate.close()
        self._monitor.close()
        self.connection.close()
        os.close(self._log)
        self._log = -1


def launch(disk: Disk, wish: Wish = "auto") -> StorageDaemon:
    """Start a daemon for a disk and return at once.

    :raise MissingError: it is not installed.
    :raise SandboxError: the required isolation is not to be had.
    """
    program = find(disk.format)
    listener, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    monitor, inside = socket.socketpair()
    log, log_write = os.pipe2(os.O_CLOEXEC)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    owner = os.fstat(disk.descriptor)
    try:
        jail = Jail(
            program=program,
            arguments=(PROGRAM, *_options(disk)),
            libraries=shared_libraries(program),
            images={"image": (os.path.abspath(disk.path), disk.descriptor)},
            identity=(owner.st_uid, owner.st_gid),
            listeners={"disk": listener},
            connected={"disk": client},
            # The last one is for the lock alone, which lives as long as somebody has the image open.
            descriptors=(nothing, log_write, log_write, listener.fileno(), inside.fileno(), disk.descriptor),
            denied=("ptrace",),
        )
        inmate = start(jail, wish)
    except BaseException:
        for sock in (client, monitor):
            sock.close()
        os.close(log)
        raise
    finally:
        for sock in (listener, inside):
            sock.close()
        for descriptor in (log_write, nothing):
            os.close(descriptor)
    return StorageDaemon(client, monitor, log, inmate)


def _options(disk: Disk) -> list[str]:
    import json  # of use only here

    common = {"read-only": disk.read_only, "discard": "unmap"}
    file = {
        "driver": "host_device" if stat.S_ISBLK(os.fstat(disk.descriptor).st_mode) else "file",
        "filename": f"{FILES}image",
        "node-name": "file",
        "locking": "off",  # ours is there, and would be somebody else's to it
        **common,
    }
    node = {"driver": disk.format, "file": "file", "node-name": "disk", "backing": None, **common}
    writable = "off" if disk.read_only else "on"
    export = f"type=vhost-user-blk,id=export,node-name=disk,writable={writable},addr.type=fd,addr.str={_LISTENER}"
    return [
        *("--chardev", f"socket,id=monitor,fd={_MONITOR}", "--monitor", "chardev=monitor"),
        *("--blockdev", json.dumps(file), "--blockdev", json.dumps(node)),
        *("--export", export),
    ]


def _ready(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
