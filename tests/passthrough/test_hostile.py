"""The hostile guest and its host's folder, by the numbers of the project's security list.

Every test has something outside the shared folder that must stay as it is.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuse import guest as fuse
from tests.fuse.guest import io_in
from tests.fuse.test_hostile import BAD_NAMES, with_name
from tests.passthrough.shared import Share, created

SETATTR = struct.Struct("<IIQQQQQQIIIIIIII").pack
MODE, OWNER, SIZE, TIMES = 1, 2 | 4, 8, 16 | 32 | 128 | 256


class Outside:
    """What the guest must never reach."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "secret").write_bytes(b"secret")
        (folder / "secret").chmod(0o600)
        os.utime(folder / "secret", ns=(5, 6))
        os.utime(folder, ns=(7, 8))
        self._state = self.state()

    def state(self) -> object:
        return [
            (path.name, path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_nlink, path.lstat().st_mtime_ns)
            for path in [self.folder, *sorted(self.folder.iterdir())]
        ] + [(self.folder / "secret").read_bytes()]

    def check(self) -> None:
        assert self.state() == self._state


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    made = Outside(tmp_path / "outside")
    yield made
    made.check()


def changes(share: Share, node: int) -> dict[str, int]:
    """Everything that changes an inode, by its number."""
    results = {
        "chmod": share.call(fuse.SETATTR, node, SETATTR(MODE, 0, *(0,) * 9, 0o777, 0, 0, 0, 0)),
        "chown": share.call(fuse.SETATTR, node, SETATTR(OWNER, 0, *(0,) * 9, 0, 0, 5, 5, 0)),
        "truncate": share.call(fuse.SETATTR, node, SETATTR(SIZE, 0, *(0,) * 14)),
        "times": share.call(fuse.SETATTR, node, SETATTR(TIMES, 0, *(0,) * 14)),
        "setxattr": share.call(fuse.SETXATTR, node, struct.pack("<II", 1, 0) + b"user.x\0v"),
        "open": share.call(fuse.OPEN, node, struct.pack("<II", os.O_RDWR, 0)),
        "truncating open": share.call(fuse.OPEN, node, struct.pack("<II", os.O_WRONLY | os.O_TRUNC, 0)),
    }
    return {name: reply.error for name, reply in results.items()}


# 1, 2: names


@pytest.mark.parametrize(("name", "error"), BAD_NAMES, ids=lambda value: repr(value)[:12])
def test_names(share: Share, outside: Outside, name: bytes, error: int) -> None:
    share.put("one")
    before = sorted(os.listdir(share.folder))
    for opcode, body in with_name(name):
        assert share.call(opcode, 1, body + b"\0").error == error, opcode
    assert sorted(os.listdir(share.folder)) == before


@pytest.mark.parametrize("name", [b"../outside/new", b"/tmp/pykrun-new", b"..", b"sub/../../outside/new"])
def test_names_that_got_past_the_server(share: Share, outside: Outside, name: bytes) -> None:
    """The second line: should a name not be checked, the seam to the kernel refuses it as well."""
    from pykrun.host.files import open_path

    (share.folder / "sub").mkdir()
    top = os.open(share.folder, os.O_PATH)
    try:
        with pytest.raises(OSError, match="cross-device"):
            open_path(top, name)
    finally:
        os.close(top)


def test_above_the_root_is_the_root(share: Share, outside: Outside) -> None:
    listed = {entry.name: entry.ino for entry in share.guest.listing(1)}
    assert listed[b"."] == listed[b".."] == share.folder.stat().st_ino
    plus = {entry.name: entry for entry in share.guest.listing(1, plus=True)}
    assert (plus[b".."].ino, plus[b".."].nodeid) == (listed[b"."], 0)
    assert share.call(fuse.LOOKUP, 1, b"..\0").error == errno.EINVAL


# 3: only regular files and directories are opened


def special_files(share: Share) -> dict[str, int]:
    os.mkfifo(share.folder / "fifo")
    kinds = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}
    os.mknod(share.folder / "socket", stat.S_IFSOCK | 0o666)
    if os.geteuid() == 0:
        os.mknod(share.folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        kinds["null"] = stat.S_IFCHR
    return kinds


def has_no_reader(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def test_special_files_are_never_opened(share: Share) -> None:
    for name in special_files(share):
        node = share.node(name.encode())
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK, os.O_TRUNC, os.O_PATH):
            assert share.call(fuse.OPEN, node, struct.pack("<II", flags, 0)).error == errno.ENXIO
        for flags in (os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDWR | os.O_EXCL):
            expected = errno.EEXIST if flags & os.O_EXCL else errno.ESTALE
            assert share.create(1, name.encode(), flags).error == expected
        assert share.call(fuse.SETATTR, node, SETATTR(SIZE, 0, *(0,) * 14)).error == errno.EINVAL
        assert share.call(fuse.OPENDIR, node, bytes(8)).error in (errno.ENOTDIR, errno.ENOSYS)
        assert share.call(fuse.READLINK, node).error == errno.EINVAL
    assert has_no_reader(share.folder / "fifo")


def test_a_file_that_becomes_a_fifo_is_not_opened(share: Share) -> None:
    target = share.put("file", b"content")
    node = share.node(b"file")
    target.unlink()
    os.mkfifo(target)
    assert share.call(fuse.OPEN, node, bytes(8)).error == errno.ESTALE
    assert set(changes(share, node).values()) == {errno.ESTALE}
    assert has_no_reader(target)


def test_a_fifo_has_attributes_all_the_same(share: Share) -> None:
    os.mkfifo(share.folder / "fifo")
    node = share.node(b"fifo")
    results = changes(share, node)
    assert [name for name, error in results.items() if not error] == ["chmod", "chown", "times"]
    assert stat.S_IMODE((share.folder / "fifo").stat().st_mode) == 0o777
    assert share.call(fuse.UNLINK, 1, b"fifo\0").error == 0


# 4: links


def test_links_are_not_followed(share: Share, outside: Outside) -> None:
    os.symlink(outside.folder / "secret", share.folder / "link")
    os.symlink(outside.folder, share.folder / "dir")
    os.symlink(outside.folder / "new", share.folder / "dangling")
    link, folder = share.guest.lookup(1, b"link"), share.guest.lookup(1, b"dir")
    assert stat.S_ISLNK(link.attr.mode)
    results = changes(share, link.nodeid)
    assert results["open"] == results["truncating open"] == errno.ELOOP
    assert results["truncate"] == errno.EINVAL
    assert share.call(fuse.LOOKUP, folder.nodeid, b"secret\0").error == errno.ENOTDIR
    assert share.create(folder.nodeid, b"new").error == errno.ENOTDIR
    for name in (b"link", b"dangling", b"dir"):
        assert share.create(1, name, os.O_RDWR | os.O_TRUNC).error == errno.ESTALE
        assert share.create(1, name, os.O_RDWR | os.O_EXCL).error == errno.EEXIST
    body = struct.pack("<Q", link.nodeid) + b"hard\0"
    assert stat.S_ISLNK(fuse.entry_out(share.guest.good(fuse.LINK, 1, body)).attr.mode)
    assert share.call(fuse.UNLINK, 1, b"link\0").error == 0


def as_directory(share: Share, node: int) -> Iterator[int]:
    """Everything that uses an inode as a directory."""
    yield share.call(fuse.LOOKUP, node, b"secret\0").error
    yield share.create(node, b"new").error
    yield share.call(fuse.MKDIR, node, struct.pack("<II", 0o755, 0) + b"new\0").error
    yield share.call(fuse.SYMLINK, node, b"new\0target\0").error
    yield share.call(fuse.MKNOD, node, struct.pack("<IIII", 0o100644, 0, 0, 0) + b"new\0").error
    yield share.call(fuse.UNLINK, node, b"secret\0").error
    yield share.call(fuse.RENAME, node, struct.pack("<Q", 1) + b"secret\0stolen\0").error
    yield share.call(fuse.LINK, node, struct.pack("<Q", share.node(b"own")) + b"new\0").error
    yield share.call(fuse.RENAME, 1, struct.pack("<Q", node) + b"own\0secret\0").error
    yield share.call(fuse.READDIR, node, io_in(0, 0, 4096)).error
    yield share.call(fuse.STATFS, node).error


@pytest.mark.parametrize("pinned", [False, True])
def test_a_directory_that_becomes_a_link(share: Share, outside: Outside, pinned: bool) -> None:
    share.put("own", b"own")
    share.put("d/secret", b"harmless")
    node = share.node(b"d")
    assert share.guest.opendir(1) == 0
    if pinned:
        share.guest.lookup(node, b"secret")
    os.rename(share.folder / "d", share.folder / "moved")
    os.symlink(outside.folder, share.folder / "d")
    if not pinned:
        assert set(as_directory(share, node)) == {errno.ESTALE}
    else:
        list(as_directory(share, node))
        assert (share.folder / "moved/new").exists()


@pytest.mark.parametrize("limit", [60, 400])
def test_links_that_come_and_go_while_names_are_resolved(tmp_path: Path, outside: Outside, limit: int) -> None:
    """Somebody swaps a directory for a link to the outside as fast as possible: two guests of one folder can."""
    folder = tmp_path / "share"
    folder.mkdir()
    share = Share(folder, limit=limit)
    share.put("a/secret", b"harmless")
    os.symlink(outside.folder, folder / "b")
    pid = os.fork()
    if not pid:
        try:
            from pykrun.host import files

            while True:
                files.rename(-100, os.fsencode(folder / "a"), -100, os.fsencode(folder / "b"), 2)
        finally:
            os._exit(1)
    try:
        end = time.monotonic() + 1.5
        outcomes = set()
        while time.monotonic() < end:
            outcomes.add(attempt(share))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert "harmless" in outcomes
    assert b"secret" not in outcomes
    share.end()


def attempt(share: Share) -> object:
    """Read, write, make and remove below `a`, whatever it is now, by way of its number."""
    share.fs._inodes.give_up(100)
    found = share.call(fuse.LOOKUP, 1, b"a\0")
    if found.error:
        return found.error
    node = fuse.entry_out(found.body).nodeid
    share.create(node, b"new", os.O_RDWR)
    share.call(fuse.UNLINK, node, b"new\0")
    share.call(fuse.SETATTR, node, SETATTR(MODE, 0, *(0,) * 9, 0o755, 0, 0, 0, 0))
    below = share.call(fuse.LOOKUP, node, b"secret\0")
    result: object = below.error
    if not below.error:
        file = fuse.entry_out(below.body).nodeid
        share.fs._inodes.give_up(100)
        opened = share.call(fuse.OPEN, file, struct.pack("<II", os.O_RDWR, 0))
        result = opened.error
        if not opened.error:
            handle = struct.unpack("<QII", opened.body)[0]
            data = share.guest.read(file, handle)
            result = "harmless" if data == b"harmless" else data
            share.guest.release(file, handle)
        share.guest.forget(file)
    share.guest.server.reset()
    share.guest.init()
    return result


# 6, 7: ids


def groups_extension(*groups: int) -> bytes:
    body = struct.pack("<I", len(groups)) + b"".join(struct.pack("<I", group) for group in groups)
    body += bytes(-len(body) % 8)
    return struct.pack("<II", 8 + len(body), 32) + body


@pytest.mark.root
def test_who_may_keep_the_set_group_id_bit(share: Share) -> None:
    """CVE-2022-0358: the group of a set-group-ID directory is no group of the caller's, who must not get its rights."""
    (share.folder / "d").mkdir()
    os.chown(share.folder / "d", 0, 77)
    (share.folder / "d").chmod(0o2777)
    node = share.node(b"d")
    caller = (1000, 1000, 1)
    for name, extension, expected in ((b"stranger", b"", 0o755), (b"member", groups_extension(5, 77), 0o2755)):
        body = struct.pack("<IIII", os.O_RDWR | os.O_CREAT, 0o102755, 0, 0) + name + b"\0" + extension
        _, _handle = created(share.call(fuse.CREATE, node, body, caller=caller, ext=len(extension) // 8))
        made = (share.folder / "d" / name.decode()).stat()
        assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid) == (expected, 1000, 77)


def identity() -> list[str]:
    wanted = ("Uid", "Gid", "Groups", "CapEff", "Umask")
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return [line for line in lines if line.split(":")[0] in wanted]


@pytest.mark.root
def test_ids_are_given_back_whatever_happens(share: Share) -> None:
    share.put("taken")
    share.create(1, b"first", caller=(5, 5, 1))  # groups are dropped for good with the first
    before = identity()
    for name in (b"new", b"taken"):
        for caller in ((1000, 1001, 1), (0, 7, 1), (3, 0, 1), ((1 << 32) - 1, 5, 1), ((1 << 31) + 1, (1 << 31) + 2, 1)):
            extension = groups_extension(*range(100))
            for groups in (b"", extension):
                body = struct.pack("<II", 0o777, 0o27) + name + b"\0" + groups
                share.call(fuse.MKDIR, 1, body, caller=caller, ext=len(groups) // 8)
                assert identity() == before
                share.call(fuse.RMDIR, 1, name + b"\0")
    assert sorted(os.listdir(share.folder)) == ["first", "taken"]


@pytest.mark.root
def test_a_guests_user_makes_files_where_its_guest_lets_it(share: Share) -> None:
    """Guests before Linux 6.3 do not tell groups: what their kernels allowed is not refused here."""
    (share.folder / "d").mkdir(mode=0o770)
    os.chown(share.folder / "d", 0, 50)
    node = share.node(b"d")
    _, _handle = created(share.create(node, b"x", caller=(1000, 1000, 1)))
    found = (share.folder / "d/x").stat()
    assert (found.st_uid, found.st_gid) == (1000, 1000)


@pytest.mark.root
@pytest.mark.parametrize("how", ["write", "open", "truncate", "open and truncate", "fallocate", "copy"])
def test_set_id_bits_are_cleared_where_the_guest_asks(share: Share, how: str) -> None:
    """CVE-2021-20263. The server is root, for whom the kernel clears nothing by itself."""
    target = share.put("program", b"program")
    target.chmod(0o6755)
    os.setxattr(target, "security.capability", b"\x01\x00\x00\x02" + b"\x01" + bytes(15))
    node = share.node(b"program")
    if how == "open":
        share.call(fuse.OPEN, node, struct.pack("<II", os.O_WRONLY | os.O_TRUNC, 1))
    elif how == "truncate":
        share.call(fuse.SETATTR, node, SETATTR(SIZE | 1 << 11, 0, *(0,) * 14))
    else:
        handle = share.guest.open(node, os.O_RDWR)
        if how == "write":
            body = struct.pack("<QQIIQII", handle, 0, 1, 4, 0, 0, 0) + b"P"
            assert share.call(fuse.WRITE, node, body).error == 0
        elif how == "open and truncate":
            valid = SIZE | 1 << 6 | 1 << 11
            share.call(fuse.SETATTR, node, SETATTR(valid, 0, handle, *(0,) * 13))
        elif how == "fallocate":
            share.call(fuse.FALLOCATE, node, struct.pack("<QQQII", handle, 0, 4096, 0, 0))
        else:
            body = struct.pack("<7Q", handle, 0, node, handle, 100, 3, 0)
            assert share.call(fuse.COPY_FILE_RANGE, node, body).error == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert "security.capability" not in os.listxattr(target)
    assert share.fs._identity.has(4)
    assert "CapEff" in identity()[-1]


@pytest.mark.root
def test_set_id_bits_stay_where_the_guests_root_writes(share: Share) -> None:
    target = share.put("program", b"program")
    target.chmod(0o6755)
    node = share.node(b"program")
    handle = share.guest.open(node, os.O_RDWR)
    assert share.guest.write(node, handle, 0, b"P").error == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o6755


# 12: handles


def test_handles_of_other_inodes(share: Share) -> None:
    share.put("a", b"a")
    share.put("b", b"b")
    a, b = share.node(b"a"), share.node(b"b")
    handle = share.guest.open(a, os.O_RDWR)
    for opcode, body in (
        (fuse.READ, io_in(handle, 0, 10)),
        (fuse.WRITE, io_in(handle, 0, 1) + b"x"),
        (fuse.SETATTR, SETATTR(SIZE | 1 << 6, 0, handle, *(0,) * 13)),
        (fuse.FALLOCATE, struct.pack("<QQQII", handle, 0, 10, 0, 0)),
        (fuse.LSEEK, struct.pack("<QQII", handle, 0, 4, 0)),
        (fuse.RELEASE, struct.pack("<QIIQ", handle, 0, 0, 0)),
        (fuse.GETATTR, struct.pack("<IIQ", 1, 0, handle)),
    ):
        assert share.call(opcode, b, body).error == errno.EBADF
    assert share.guest.release(a, handle) == 0
    assert share.guest.release(a, handle) == errno.EBADF
    assert share.call(fuse.READ, a, io_in(handle, 0, 10)).error == errno.EBADF


# 13: sizes


def test_sizes_that_cannot_be(share: Share) -> None:
    node, handle = created(share.create(1, b"x"))
    end = (1 << 63) - 1
    for opcode, body in (
        (fuse.FALLOCATE, struct.pack("<QQQII", handle, 1 << 62, 1 << 62, 0, 0)),
        (fuse.FALLOCATE, struct.pack("<QQQII", handle, 0, 1 << 60, 0, 0)),
        (fuse.FALLOCATE, struct.pack("<QQQII", handle, 0, 100, 0xFFFFFFFF, 0)),
        (fuse.WRITE, io_in(handle, end - 1, 10) + bytes(10)),
        (fuse.WRITE, io_in(handle, 1 << 63, 10) + bytes(10)),
        (fuse.LSEEK, struct.pack("<QQII", handle, end, 3, 0)),
        (fuse.LSEEK, struct.pack("<QQII", handle, 0, 0xFFFFFFFF, 0)),
        (fuse.COPY_FILE_RANGE, struct.pack("<7Q", handle, 0, node, handle, 0, 10, 1)),
        (fuse.SETATTR, SETATTR(SIZE | 1 << 6, 0, handle, 1 << 63, *(0,) * 12)),
    ):
        assert share.call(opcode, node, body).error, (opcode, body)
    assert share.guest.getattr(node).size == 0
    assert share.guest.getattr(node).blocks < 100
    assert share.call(fuse.READ, node, io_in(handle, end - 5, 100)).error == errno.EINVAL


def test_times_that_cannot_be(share: Share) -> None:
    share.put("x")
    node = share.node(b"x")
    for seconds, nanoseconds in ((1, 10**9), (1, (1 << 30) - 1), (1, (1 << 30) - 2), ((1 << 63) - 1, 0)):
        fields = (0, 0, 0, seconds, seconds, 0, nanoseconds, nanoseconds, 0, 0, 0, 0, 0, 0)
        reply = share.call(fuse.SETATTR, node, SETATTR(16 | 32, 0, *fields))
        assert reply.error == errno.EINVAL or seconds > 1 << 60
    assert share.guest.getattr(node).ino


def test_nothing_of_it_is_a_fault(share: Share, outside: Outside) -> None:
    """Whatever the numbers are, the answer is an errno: the fixture checks that there was no fault."""
    share.put("x", b"content")
    node = share.node(b"x")
    handle = share.guest.open(node, os.O_RDWR)
    numbers = (0, 1, 255, 4096, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
    requests: list[Callable[[int], tuple[int, bytes]]] = [
        lambda n: (fuse.READ, io_in(handle, n, 10)),
        lambda n: (fuse.LSEEK, struct.pack("<QQII", handle, n, n & 0xFFFFFFFF, 0)),
        lambda n: (fuse.FALLOCATE, struct.pack("<QQQII", handle, 5, 0, n & 0xFFFFFFFF, 0)),
        lambda n: (fuse.SETATTR, SETATTR(MODE | OWNER, 0, *(0,) * 9, n & 0xFFFFFFFF, 0, n & 0xFFFF, 5, 0)),
        lambda n: (fuse.IOCTL, struct.pack("<QIIQII", handle, 0, n & 0xFFFFFFFF, n, 0, 100)),
        lambda n: (fuse.STATX, struct.pack("<IIQII", 0, 0, 0, n & 0xFFFFFFFF, n & 0xFFFFFFFF)),
        lambda n: (fuse.GETLK, struct.pack("<QQQQIIII", handle, n, 0, n, 0, 0, 0, 0)),
        lambda n: (fuse.ACCESS, struct.pack("<II", n & 0xFFFFFFFF, 0)),
        lambda n: (fuse.READDIR, io_in(n, n, 100)),
    ]
    for number in numbers:
        for request in requests:
            share.call(*request(number)[:1], node, request(number)[1])
