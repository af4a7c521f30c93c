"""Modes and times."""

from __future__ import annotations

import os
import stat
import time

from tests.posix.table import add, case, outcome, put
from tests.posix.view import NOW, View

SECOND = 10**9


def changing_mode(mode: int, kind: str, view: View) -> None:
    if kind == "file":
        put(view, b"x")
    elif kind == "dir":
        view.mkdir(b"x")
    else:
        view.mknod(b"x", stat.S_IFIFO | 0o600)
    before = view.lstat(b"x")
    view.chmod(b"x", mode)
    after = view.lstat(b"x")
    assert after.mode == stat.S_IFMT(before.mode) | mode
    assert (after.ino, after.size, after.mtime_ns) == (before.ino, before.size, before.mtime_ns)
    assert after.ctime_ns >= before.ctime_ns


for _mode in (0, 0o1, 0o444, 0o600, 0o755, 0o777, 0o1777, 0o4755, 0o2755, 0o6711):
    for _kind in ("file", "dir", "fifo"):
        add(f"chmod_{_mode:04o}_{_kind}", changing_mode, _mode, _kind)

TIMES = {
    "epoch": 0,
    "one": 1,
    "before_1970": -1,
    "long_before_1970": -SECOND * 86400 * 365 * 60 + 7,
    "exact": 1_234_567_890 * SECOND + 123_456_789,
    "end_of_second": 1_000_000_000 * SECOND + 999_999_999,
    "after_2038": (1 << 31) * SECOND + 5,
    "after_2106": (1 << 32) * SECOND + 6,
}


def changing_times(kind: str, ns: int, view: View) -> None:
    if kind == "file":
        put(view, b"x")
    elif kind == "dir":
        view.mkdir(b"x")
    elif kind == "link":
        view.symlink(b"nowhere", b"x")
    else:
        view.mknod(b"x", stat.S_IFIFO | 0o600)
    view.utime(b"x", ns, ns + SECOND)
    found = view.lstat(b"x")
    assert (found.atime_ns, found.mtime_ns) == (ns, ns + SECOND)
    view.utime(b"x", None, ns)
    found = view.lstat(b"x")
    assert (found.atime_ns, found.mtime_ns) == (ns, ns)
    view.utime(b"x", ns + 2, None)
    found = view.lstat(b"x")
    assert (found.atime_ns, found.mtime_ns) == (ns + 2, ns)


for _label, _ns in TIMES.items():
    for _kind in ("file", "dir", "link", "fifo"):
        add(f"utime_{_label}_{_kind}", changing_times, _kind, _ns)


@case
def the_present(view: View) -> None:
    put(view, b"x")
    view.utime(b"x", 5, 6)
    before = time.time_ns() - 2 * SECOND
    view.utime(b"x", NOW, None)
    found = view.lstat(b"x")
    assert before < found.atime_ns < time.time_ns() + 2 * SECOND
    assert found.mtime_ns == 6
    view.utime(b"x", 7, NOW)
    found = view.lstat(b"x")
    assert found.atime_ns == 7
    assert before < found.mtime_ns < time.time_ns() + 2 * SECOND
    view.utime(b"x", NOW, NOW)
    assert before < view.lstat(b"x").atime_ns


@case
def writing_moves_the_times(view: View) -> None:
    put(view, b"x", b"1")
    view.utime(b"x", 5, 6)
    file = view.open(b"x", os.O_RDWR)
    view.pwrite(file, b"2", 0)
    view.close(file)
    after = view.lstat(b"x")
    assert after.mtime_ns > SECOND
    assert after.atime_ns == 5


@case
def names_move_the_directory(view: View) -> None:
    view.mkdir(b"d")
    for step in (
        lambda: put(view, b"d/x"),
        lambda: view.rename(b"d/x", b"d/y"),
        lambda: view.link(b"d/y", b"d/z"),
        lambda: view.symlink(b"t", b"d/l"),
        lambda: view.mkdir(b"d/s"),
        lambda: view.rmdir(b"d/s"),
        lambda: view.unlink(b"d/y"),
    ):
        view.utime(b"d", 1, 1)
        step()
        assert view.lstat(b"d").mtime_ns > SECOND


@case
def links_of_directories_are_counted(view: View) -> None:
    view.mkdir(b"d")
    assert view.lstat(b"d").nlink == 2
    for name in (b"d/a", b"d/b"):
        view.mkdir(name)
    put(view, b"d/file")
    assert view.lstat(b"d").nlink == 4
    view.rmdir(b"d/a")
    assert view.lstat(b"d").nlink == 3


@case
def kinds_are_told(view: View) -> None:
    put(view, b"file")
    view.mkdir(b"dir")
    view.symlink(b"t", b"link")
    view.mknod(b"fifo", stat.S_IFIFO | 0o600)
    view.mknod(b"socket", stat.S_IFSOCK | 0o600)
    view.mknod(b"made", stat.S_IFREG | 0o600)
    kinds = {
        b"file": stat.S_IFREG,
        b"dir": stat.S_IFDIR,
        b"link": stat.S_IFLNK,
        b"fifo": stat.S_IFIFO,
        b"socket": stat.S_IFSOCK,
        b"made": stat.S_IFREG,
    }
    assert {name: stat.S_IFMT(view.lstat(name).mode) for name in kinds} == kinds
    listed = view.kinds(b"")
    for name in (b"file", b"dir", b"link", b"made"):
        assert listed[name] == kinds[name]


@case
def fchmod_and_chmod_agree(view: View) -> None:
    file = view.open(b"x", os.O_RDWR | os.O_CREAT, 0o600)
    view.fchmod(file, 0o640)
    assert stat.S_IMODE(view.lstat(b"x").mode) == 0o640
    view.chmod(b"x", 0o604)
    assert stat.S_IMODE(view.fstat(file).mode) == 0o604
    view.close(file)


@case
def a_link_has_a_size_and_no_mode_of_its_own(view: View) -> None:
    view.symlink(b"t" * 100, b"l")
    found = view.lstat(b"l")
    assert (found.size, found.mode) == (100, stat.S_IFLNK | 0o777)


@case
def statfs_tells_the_limits(view: View) -> None:
    block, name = view.statfs(b"")
    assert block >= 512
    assert name == 255


@case
def what_is_removed_has_no_attributes(view: View) -> None:
    put(view, b"x")
    view.unlink(b"x")
    for step in (view.lstat, lambda path: view.chmod(path, 0o600), lambda path: view.utime(path, 1, 1)):
        assert outcome(step, b"x") == 2
