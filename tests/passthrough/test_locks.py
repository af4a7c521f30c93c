"""Locks: the guest's own unless asked for; then the host's, and never waiting."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.fs.interface import FLOCK_LOCKS, POSIX_LOCKS
from pykrun.fs.passthrough import Options
from tests.fuse import guest as fuse
from tests.fuse.guest import Reply
from tests.passthrough.shared import Share, descriptors

READ, WRITE, UNLOCK = 0, 1, 2
END = (1 << 63) - 1


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    made = Share(tmp_path, Options(posix_locks=True, flocks=True))
    made.put("file", b"content")
    yield made
    made.end()


def lock(
    share: Share,
    opcode: int,
    node: int,
    handle: int,
    kind: int,
    owner: int,
    start: int = 0,
    end: int = END,
    flock: int = 0,
) -> Reply:
    return share.call(opcode, node, struct.pack("<QQQQIIII", handle, owner, start, end, kind, 33, flock, 0))


def host_lock(path: Path, kind: int) -> int:
    """A file of the host's, locked; whoever is in the way raises."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def test_locks_are_the_guests_own_unless_asked_for(tmp_path: Path) -> None:
    share = Share(tmp_path)
    share.put("file")
    node = share.node(b"file")
    handle = share.guest.open(node, os.O_RDWR)
    assert not share.fs.features & (POSIX_LOCKS | FLOCK_LOCKS)
    for flock in (0, 1):
        assert lock(share, fuse.SETLK, node, handle, WRITE, 1, flock=flock).error == errno.ENOSYS
    assert lock(share, fuse.GETLK, node, handle, WRITE, 1).error == errno.ENOSYS
    share.end()


def test_owners_are_in_each_others_way(share: Share) -> None:
    node = share.node(b"file")
    handle = share.guest.open(node, os.O_RDWR)
    assert lock(share, fuse.SETLK, node, handle, WRITE, 1, 10, 20).error == 0
    assert lock(share, fuse.SETLK, node, handle, WRITE, 2, 30, 40).error == 0
    assert lock(share, fuse.SETLK, node, handle, READ, 2, 15, 16).error == errno.EAGAIN
    start, end, kind, _ = struct.unpack("<QQII", lock(share, fuse.GETLK, node, handle, READ, 2, 0, END).body)
    assert (start, end, kind) == (10, 20, WRITE)
    assert lock(share, fuse.SETLK, node, handle, UNLOCK, 1).error == 0
    assert lock(share, fuse.SETLK, node, handle, READ, 2, 15, 16).error == 0
    assert struct.unpack("<QQII", lock(share, fuse.GETLK, node, handle, READ, 2).body)[2] == UNLOCK


def test_the_host_sees_them(share: Share) -> None:
    node = share.node(b"file")
    handle = share.guest.open(node, os.O_RDWR)
    assert lock(share, fuse.SETLK, node, handle, WRITE, 1).error == 0
    with pytest.raises(BlockingIOError):
        os.close(host_lock(share.folder / "file", fcntl.LOCK_EX))
    assert share.call(fuse.FLUSH, node, struct.pack("<QQQ", handle, 0, 1)).error == 0
    held = host_lock(share.folder / "file", fcntl.LOCK_EX)
    assert lock(share, fuse.SETLK, node, handle, READ, 1).error == errno.EAGAIN
    os.close(held)


def test_a_lock_that_would_wait_does_not(share: Share) -> None:
    node = share.node(b"file")
    handle = share.guest.open(node, os.O_RDWR)
    held = host_lock(share.folder / "file", fcntl.LOCK_EX)
    before = time.monotonic()
    assert lock(share, fuse.SETLKW, node, handle, WRITE, 1).error == errno.EAGAIN
    assert time.monotonic() - before < 5
    os.close(held)
    assert lock(share, fuse.SETLKW, node, handle, WRITE, 1).error == 0


def test_flocks_belong_to_open_files(share: Share) -> None:
    node = share.node(b"file")
    one, two = share.guest.open(node), share.guest.open(node)
    assert lock(share, fuse.SETLK, node, one, WRITE, 1, flock=1).error == 0
    assert lock(share, fuse.SETLK, node, two, READ, 1, flock=1).error == errno.EAGAIN
    assert lock(share, fuse.SETLKW, node, two, READ, 1, flock=1).error == errno.EAGAIN
    share.guest.release(node, one)
    assert lock(share, fuse.SETLK, node, two, READ, 1, flock=1).error == 0
    assert lock(share, fuse.SETLK, node, two, UNLOCK, 1, flock=1).error == 0


def test_closing_drops_them_and_their_descriptors(share: Share) -> None:
    node = share.node(b"file")
    before = descriptors()
    handle = share.guest.open(node, os.O_RDWR)
    for owner in range(10):
        assert lock(share, fuse.SETLK, node, handle, READ, owner).error == 0
    share.guest.release(node, handle)
    assert descriptors() - before <= 1  # the pin
    os.close(host_lock(share.folder / "file", fcntl.LOCK_EX))


def test_owners_are_bounded(share: Share) -> None:
    node = share.node(b"file")
    handle = share.guest.open(node, os.O_RDWR)
    outcomes = [lock(share, fuse.SETLK, node, handle, READ, owner).error for owner in range(100)]
    assert outcomes == [0] * 64 + [errno.ENOLCK] * 36
