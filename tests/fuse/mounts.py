"""A real mount for tests: the server in a child process, so that no system call of the test can wait for itself."""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pykrun.fs import FileSystem
from pykrun.fuse import Server
from pykrun.fuse.dev_fuse import OPTIONS, Channel, open_mount
from pykrun.host import linux
from tests.support.processes import become_nobody

LIMIT = 30.0


class Outcome:
    """What the server tells when it has ended."""

    statistics: dict[str, int]
    faults: int
    extra: Any


@contextmanager
def mounted(filesystem: FileSystem, folder: Path, tell: Callable[[], Any] = lambda: None) -> Iterator[Outcome]:
    """Mount on `folder` for the time of the block; afterwards the outcome is filled, `tell()` as its `extra`."""
    with mounted_in_child(lambda: filesystem, folder, tell=tell) as outcome:
        yield outcome


@contextmanager
def mounted_in_child(
    make: Callable[[], FileSystem], folder: Path, *, nobody: bool = False, tell: Callable[[], Any] = lambda: None
) -> Iterator[Outcome]:
    """Mount as `mounted`, what is made in the serving process, which may be an ordinary user's."""
    descriptor = open_mount(str(folder), flags=linux.MS_NOSUID | linux.MS_NODEV, options=OPTIONS)
    reading, writing = os.pipe()
    stopping, stop = os.pipe()
    device = _device(folder)
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            os.close(stop)
            if nobody:
                become_nobody()
            filesystem = make()
            server = Server(filesystem)
            channel = Channel(server, descriptor)
            _run(channel, stopping)
            channel.close()
            told = json.dumps([server.statistics(), server.faults, tell()]).encode()
            os.write(writing, told)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    os.close(stopping)
    os.close(descriptor)  # the child's is the only one left: if it dies, the kernel ends the connection
    outcome = Outcome()
    try:
        yield outcome
    finally:
        linux.unmount(str(folder), linux.MNT_DETACH)
        over = _over(reading, device)
        os.close(stop)
        told = _read_all(reading)
        os.close(reading)
        if not told:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert told, "the server did not end"
    assert over, "the server did not end with its mount"
    outcome.statistics, outcome.faults, outcome.extra = json.loads(told)
    assert outcome.faults == 0


def _run(channel: Channel, stopping: int) -> None:
    """Serve until the mount is gone, or the other end of a pipe is closed."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    poll.register(stopping, select.POLLIN)
    while channel.serve() and stopping not in dict(poll.poll(channel.again and channel.again * 1000)):
        pass


def _device(folder: Path) -> str:
    """The device number of what is mounted there, as mountinfo writes it; the server need not answer for that."""
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()]
    return [row[2] for row in rows if row[4] == str(folder)][-1]


def _held_elsewhere(device: str) -> bool:
    """Another mount namespace has a copy: somebody's sandbox began while the mount was there, and it lives with that.

    A test beside this one, of another checkout perhaps, that shows a guest the whole machine is enough.
    """
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            if f" {device} " in table.read_text():
                return True
        except OSError:
            continue  # it ended meanwhile
    return False


def _over(reading: int, device: str) -> bool:
    """Wait until the server ends, as it must with its mount, unless that lives on elsewhere."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if select.select([reading], [], [], 1)[0] or _held_elsewhere(device):
            return True
    return False


def _read_all(descriptor: int) -> bytes:
    data = b""
    end = time.monotonic() + LIMIT
    while select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return data
        data += chunk
    return b""
