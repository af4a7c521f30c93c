"""Attributes beyond stat: statx and its time of birth, by number and by handle; and how the server gets at files where
there is no /proc.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from pykrun.fs.packed import ATTR_OUT, ENTRY_OUT
from pykrun.fs.types import Attributes, Entry, PackedAttributes, PackedEntry
from pykrun.fuse import encode
from tests.fuse import guest as fuse
from tests.passthrough.shared import Share, created
from tests.support.processes import as_nobody

SETATTR = struct.Struct("<IIQQQQQQIIIIIIII").pack
BTIME = 0x800


def statx(share: Share, node: int, handle: int | None = None) -> tuple[int, ...]:
    """mask, blksize, nlink, uid, gid, mode, ino, size, blocks, then seconds and nanoseconds of four times, rdev."""
    body = struct.pack("<IIQII", 0 if handle is None else 1, 0, handle or 0, 0, 0xFFF)
    reply = share.guest.good(fuse.STATX, node, body)
    head = struct.unpack_from("<IIQIIIHxxQQQQ", reply, 32)
    times = struct.unpack_from("<" + "qI4x" * 4, reply, 96)
    devices = struct.unpack_from("<II", reply, 160)
    return (head[0], head[1], *head[3:10], *times, *devices)


def test_statx(share: Share) -> None:
    target = share.put("file", b"content")
    os.utime(target, ns=(-5, 1_234_567_890_123_456_789))
    node = share.node(b"file")
    found, real = statx(share, node), target.stat()
    assert found[1:9] == (4096, 1, real.st_uid, real.st_gid, real.st_mode, real.st_ino, 7, real.st_blocks)
    (atime, atime_ns, birth, _, ctime, ctime_ns, mtime, mtime_ns) = found[9:17]
    assert (atime, atime_ns) == (-1, 999_999_995)
    assert (mtime, mtime_ns) == (1_234_567_890, 123_456_789)
    assert ctime * 10**9 + ctime_ns == real.st_ctime_ns
    told = int(subprocess.run(["stat", "-c", "%W", target], capture_output=True, check=True).stdout)
    assert birth == told
    assert bool(found[0] & BTIME) == bool(told)


def test_statx_of_what_is_open_and_has_no_name(share: Share) -> None:
    node, handle = created(share.create(1, b"x"))
    share.guest.write(node, handle, 0, b"12345")
    share.call(fuse.UNLINK, 1, b"x\0")
    assert statx(share, node, handle)[2:8:5] == (0, 5)
    assert statx(share, node)[2] == 0
    attributes = fuse.attr(share.guest.good(fuse.GETATTR, node, struct.pack("<IIQ", 1, 0, handle))[16:])
    assert (attributes.nlink, attributes.size) == (0, 5)


@pytest.mark.root
def test_device_numbers(share: Share) -> None:
    os.mknod(share.folder / "dev", 0o020600, os.makedev(511, 0xABCDE))
    node = share.node(b"dev")
    assert statx(share, node)[-2:] == (511, 0xABCDE)
    assert share.guest.getattr(node).rdev == 0xDE | 511 << 8 | 0xABC00 << 12


def test_packed_answers_are_those_that_the_server_would_pack() -> None:
    values = {
        "ino": 7,
        "mode": 0o100644,
        "size": 5 << 32,
        "blocks": 9,
        "nlink": 3,
        "uid": 1 << 31,
        "gid": 2,
        "rdev": os.makedev(511, 0xABCDE),
        "block_size": 512,
        "atime_ns": -1,
        "mtime_ns": 5_000_000_001,
        "ctime_ns": 0,
        "submount": True,
        "timeout": 1.5,
    }
    plain = Attributes(**values)  # type: ignore[arg-type]  # one dict for all
    entry = Entry(5, plain, 2.25, 4)
    attr_out, entry_out = encode.attr_out(plain), encode.entry_out(entry)
    assert (len(attr_out), len(entry_out)) == (ATTR_OUT.size, ENTRY_OUT.size)
    packed, packed_entry = PackedAttributes(attr_out), PackedEntry(5, entry_out)
    for attributes in (packed, packed_entry.attributes):
        assert {name: getattr(attributes, name) for name in values} == values
    assert (packed_entry.timeout, packed_entry.generation) == (2.25, 4)
    assert (encode.attr_out(packed), encode.entry_out(packed_entry)) == (attr_out, entry_out)
    with pytest.raises(AttributeError):
        packed.colour  # noqa: B018 - that it is not there is the point
    with pytest.raises(AttributeError):
        packed_entry.colour  # noqa: B018 - that it is not there is the point


# Where there is no /proc


@pytest.mark.root
def test_a_server_whose_root_has_no_proc(tmp_path: Path) -> None:
    """As in a sandbox: the root is changed to the shared directory, the proc file system is the working directory."""
    folder = tmp_path / "share"
    folder.mkdir()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            share = Share(folder)
            share.put("file", b"content")
            share.fs.enter_proc()
            os.chroot(folder)
            assert not os.path.exists("/proc")
            node = share.node(b"file")
            assert share.guest.content(b"file") == b"content"
            assert share.call(fuse.SETXATTR, node, struct.pack("<II", 1, 0) + b"user.x\0v").error == 0
            assert share.guest.good(fuse.GETXATTR, node, struct.pack("<II", 9, 0) + b"user.x\0") == b"v"
            assert share.call(fuse.SETATTR, node, SETATTR(1, 0, *(0,) * 9, 0o600, 0, 0, 0, 0)).error == 0
            assert share.call(fuse.LINK, 1, struct.pack("<Q", node) + b"more\0").error == 0
            made, handle = created(share.create(1, b"new"))
            assert share.guest.write(made, handle, 0, b"n").error == 0
            share.guest.server.reset()
            assert share.guest.server.faults == 0
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert sorted(os.listdir(folder)) == ["file", "more", "new"]


@pytest.mark.root
def test_after_a_fork_it_is_the_childs_descriptors(tmp_path: Path) -> None:
    """What is opened by way of /proc must be our own, whoever made the file system."""
    folder = tmp_path / "share"
    folder.mkdir()
    share = Share(folder)
    share.put("file", b"content")
    pid = os.fork()
    if not pid:
        status = 1
        try:
            for _ in range(20):
                os.open("/dev/null", os.O_RDONLY)  # the numbers differ from now on
            status = 0 if share.guest.content(b"file") == b"content" else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    share.end()


@pytest.mark.root
def test_an_ordinary_users_server(tmp_path: Path) -> None:
    """What it cannot do has the host's errno; what is made is its user's."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        if parent != Path("/tmp"):
            parent.chmod(0o755)
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "closed").mkdir(mode=0o700)
    (folder / "roots").write_bytes(b"r")
    (folder / "roots").chmod(0o600)
    (folder / "own").mkdir()
    os.chown(folder / "own", 65534, 65534)

    def work() -> None:
        share = Share(folder)
        own, roots = share.node(b"own"), share.node(b"roots")
        node, _handle = created(share.create(own, b"new", caller=(0, 0, 1)))
        assert share.guest.getattr(node).uid == 65534
        chown = SETATTR(2, 0, *(0,) * 9, 0, 0, 5, 0, 0)
        assert share.call(fuse.SETATTR, node, chown).error == 1
        assert share.call(fuse.OPEN, roots, bytes(8)).error == 13
        assert share.call(fuse.LOOKUP, share.node(b"closed"), b"x\0").error == 13
        assert share.create(1, b"new").error == 13
        device = struct.pack("<IIII", 0o020600, 0x103, 0, 0) + b"dev\0"
        assert share.call(fuse.MKNOD, own, device).error == 1
        assert share.call(fuse.UNLINK, own, b"new\0").error == 0
        share.end()

    as_nobody(work)
