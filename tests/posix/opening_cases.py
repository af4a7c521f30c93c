"""open(2): every combination of flags on everything that may be there."""

from __future__ import annotations

import os
import stat
from errno import EEXIST, EISDIR, ENOENT

from tests.posix.table import add, case, get, outcome, put
from tests.posix.view import View

ACCESS = {"read": os.O_RDONLY, "write": os.O_WRONLY, "both": os.O_RDWR}
HOW = {
    "plain": 0,
    "append": os.O_APPEND,
    "truncate": os.O_TRUNC,
    "create": os.O_CREAT,
    "create_truncate": os.O_CREAT | os.O_TRUNC,
    "exclusive": os.O_CREAT | os.O_EXCL,
}
WHAT = ("file", "dir", "link", "dangling", "missing")


def rules(access: int, how: int, what: str) -> int:
    if how & os.O_EXCL:
        return 0 if what == "missing" else EEXIST
    if what == "dir":
        return EISDIR if access or how & (os.O_CREAT | os.O_TRUNC) else 0
    if what in ("dangling", "missing"):
        return 0 if how & os.O_CREAT else ENOENT
    return 0


def opening(access: int, how: int, what: str, view: View) -> None:
    put(view, b"file", b"content")
    view.mkdir(b"dir")
    view.symlink(b"file", b"link")
    view.symlink(b"made", b"dangling")
    expected = rules(access, how, what)
    path = what.encode()
    if expected:
        assert outcome(view.open, path, access | how) == expected
        return
    file = view.open(path, access | how, 0o640)
    truncates = how & os.O_TRUNC
    exists = what in ("file", "link")
    assert view.fstat(file).size == (7 if exists and not truncates else 0)
    if access:
        assert view.pwrite(file, b"abc", 2) == 3
        if access == os.O_RDWR and not how & os.O_APPEND:
            assert view.pread(file, 3, 2) == b"abc"
    view.close(file)
    target = b"file" if what == "link" else b"made" if what == "dangling" else path
    made = view.lstat(target)
    assert stat.S_ISREG(made.mode)
    assert stat.S_IMODE(made.mode) == (0o644 if exists else 0o640)


def opening_directory(view: View) -> None:
    view.mkdir(b"dir")
    assert view.names(b"dir") == []


for _access, _access_flags in ACCESS.items():
    for _how, _how_flags in HOW.items():
        for _what in WHAT:
            if _what == "dir" and not rules(_access_flags, _how_flags, _what):
                continue
            if _what == "dangling" and _how_flags & os.O_CREAT and not _how_flags & os.O_EXCL:
                # a kernel follows the link to make its target; that is its work alone
                add(f"open_{_access}_{_how}_{_what}", opening, _access_flags, _how_flags, _what, kernel=True)
                continue
            if _what == "link" and _how_flags & os.O_CREAT and not _how_flags & os.O_EXCL:
                add(f"open_{_access}_{_how}_{_what}", opening, _access_flags, _how_flags, _what, kernel=True)
                continue
            add(f"open_{_access}_{_how}_{_what}", opening, _access_flags, _how_flags, _what)
add("open_directory", opening_directory)


def creation_mode(mode: int, umask: int, view: View) -> None:
    view.umask(umask)
    try:
        view.close(view.open(b"file", os.O_WRONLY | os.O_CREAT, mode))
        view.mkdir(b"dir", mode)
        view.mknod(b"fifo", stat.S_IFIFO | mode)
        view.symlink(b"x", b"link")
        view.close(view.tmpfile(b"", os.O_RDWR, mode))
    finally:
        view.umask(0)
    wanted = mode & ~umask
    assert stat.S_IMODE(view.lstat(b"file").mode) == wanted
    assert stat.S_IMODE(view.lstat(b"dir").mode) == wanted & 0o1777
    assert stat.S_IMODE(view.lstat(b"fifo").mode) == wanted
    assert stat.S_IMODE(view.lstat(b"link").mode) == 0o777


for _mode in (0o000, 0o400, 0o600, 0o644, 0o755, 0o777):
    for _umask in (0, 0o022, 0o077, 0o777, 0o027):
        add(f"mode_{_mode:03o}_umask_{_umask:03o}", creation_mode, _mode, _umask)


@case
def a_file_without_rights_is_open_for_its_maker(view: View) -> None:
    file = view.open(b"x", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0)
    assert view.pwrite(file, b"mine", 0) == 4
    assert view.pread(file, 4, 0) == b"mine"
    view.close(file)


@case
def appending_goes_to_the_end(view: View) -> None:
    put(view, b"log", b"one ")
    first = view.open(b"log", os.O_WRONLY | os.O_APPEND)
    view.pwrite(first, b"two ", 4)
    view.pwrite(first, b"three", 8)
    view.close(first)
    assert get(view, b"log") == b"one two three"


@case
def two_descriptors_see_each_other(view: View) -> None:
    one = view.open(b"x", os.O_RDWR | os.O_CREAT)
    two = view.open(b"x", os.O_RDWR)
    view.pwrite(one, b"hello", 0)
    assert view.pread(two, 10, 0) == b"hello"
    view.pwrite(two, b"J", 0)
    assert view.pread(one, 10, 0) == b"Jello"
    view.ftruncate(two, 2)
    assert view.pread(one, 10, 0) == b"Je"
    view.close(one)
    view.close(two)


@case
def a_file_without_a_name(view: View) -> None:
    file = view.tmpfile(b"", os.O_RDWR)
    assert view.names(b"") == []
    view.pwrite(file, b"nameless", 0)
    assert (view.pread(file, 20, 0), view.fstat(file).nlink, view.fstat(file).size) == (b"nameless", 0, 8)
    view.link_file(file, b"named")
    assert (get(view, b"named"), view.stat(b"named").nlink) == (b"nameless", 1)
    view.pwrite(file, b"N", 0)
    view.close(file)
    assert get(view, b"named") == b"Nameless"
    view.unlink(b"named")


@case
def an_exclusive_nameless_file_stays_so(view: View) -> None:
    file = view.tmpfile(b"", os.O_RDWR | os.O_EXCL)
    assert outcome(view.link_file, file, b"named") == ENOENT
    view.close(file)


@case
def removed_files_live_on_while_open(view: View) -> None:
    file = view.open(b"x", os.O_RDWR | os.O_CREAT)
    view.pwrite(file, b"still", 0)
    view.unlink(b"x")
    assert outcome(view.lstat, b"x") == ENOENT
    put(view, b"x", b"another")
    assert (view.pread(file, 9, 0), view.fstat(file).nlink) == (b"still", 0)
    view.ftruncate(file, 2)
    view.fchmod(file, 0o600)
    assert (view.fstat(file).size, stat.S_IMODE(view.fstat(file).mode)) == (2, 0o600)
    view.fsync(file)
    view.close(file)
    assert get(view, b"x") == b"another"


@case
def a_hundred_open_files(view: View) -> None:
    files = []
    for number in range(100):
        file = view.open(b"%d" % number, os.O_RDWR | os.O_CREAT)
        view.pwrite(file, b"%d" % number, 0)
        files.append(file)
    for number, file in enumerate(files):
        if number % 3 == 0:
            view.unlink(b"%d" % number)
        assert view.pread(file, 9, 0) == b"%d" % number
    for file in files:
        view.close(file)
    assert len(view.names(b"")) == 66
