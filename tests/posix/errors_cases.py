"""The errno of everything that cannot be."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from errno import (
    EEXIST,
    EINVAL,
    EISDIR,
    ELOOP,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
)
from typing import Any

from tests.posix.table import add, case, outcome, put
from tests.posix.view import View

Step = Callable[[View, bytes], Any]

MAKERS: dict[str, Step] = {
    "create": lambda view, path: view.close(view.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    "mkdir": lambda view, path: view.mkdir(path),
    "symlink": lambda view, path: view.symlink(b"target", path),
    "mkfifo": lambda view, path: view.mknod(path, stat.S_IFIFO | 0o600),
    "link": lambda view, path: view.link(b"file", path),
}
USERS: dict[str, Step] = {
    "lstat": lambda view, path: view.lstat(path),
    "open": lambda view, path: view.close(view.open(path, os.O_RDONLY)),
    "unlink": lambda view, path: view.unlink(path),
    "rmdir": lambda view, path: view.rmdir(path),
    "rename_from": lambda view, path: view.rename(path, b"other"),
    "chmod": lambda view, path: view.chmod(path, 0o600),
    "truncate": lambda view, path: view.truncate(path, 1),
    "utime": lambda view, path: view.utime(path, 1, 1),
    "readlink": lambda view, path: view.readlink(path),
    "link_from": lambda view, path: view.link(path, b"other"),
    "names": lambda view, path: view.names(path),
}


def world(view: View) -> None:
    put(view, b"file", b"content")
    view.mkdir(b"dir")
    view.mkdir(b"full")
    put(view, b"full/inside")
    view.symlink(b"file", b"link")
    view.symlink(b"nowhere", b"dangling")
    view.mknod(b"fifo", stat.S_IFIFO | 0o600)


def failing(step: Step, path: bytes, expected: int, view: View) -> None:
    world(view)
    before = view.names(b"")
    assert outcome(step, view, path) == expected
    assert view.names(b"") == before


for _name, _step in MAKERS.items():
    for _path in (b"file", b"dir", b"full", b"link", b"dangling", b"fifo"):
        add(f"{_name}_onto_{_path.decode()}", failing, _step, _path, EEXIST)
    add(f"{_name}_below_missing", failing, _step, b"missing/new", ENOENT)
    add(f"{_name}_below_file", failing, _step, b"file/new", ENOTDIR)
    add(f"{_name}_below_fifo", failing, _step, b"fifo/new", ENOTDIR)
    add(f"{_name}_below_dangling", failing, _step, b"dangling/new", ENOENT)

for _name, _step in USERS.items():
    add(f"{_name}_missing", failing, _step, b"missing", ENOENT)
    add(f"{_name}_below_missing_directory", failing, _step, b"missing/x", ENOENT)
    add(f"{_name}_below_a_file", failing, _step, b"file/x", ENOTDIR)

_WRONG_KIND = (
    ("unlink", b"dir", EISDIR),
    ("rmdir", b"file", ENOTDIR),
    ("rmdir", b"link", ENOTDIR),
    ("rmdir", b"full", ENOTEMPTY),
    ("readlink", b"file", EINVAL),
    ("readlink", b"dir", EINVAL),
    ("truncate", b"dir", EISDIR),
    ("open", b"dangling", ENOENT),
    ("link_from", b"dir", EPERM),
    ("names", b"file", ENOTDIR),
)
for _name, _path, _errno in _WRONG_KIND:
    add(f"{_name}_of_{_path.decode()}", failing, USERS[_name], _path, _errno)


@case
def links_in_a_circle(view: View) -> None:
    view.symlink(b"b", b"a")
    view.symlink(b"a", b"b")
    for step in (view.stat, lambda path: view.open(path, os.O_RDONLY), lambda path: view.chmod(path, 0o600)):
        assert outcome(step, b"a") == ELOOP
    assert view.readlink(b"a") == b"b"


@case
def no_follow(view: View) -> None:
    put(view, b"file")
    view.symlink(b"file", b"link")
    assert outcome(view.open, b"link", os.O_RDONLY | os.O_NOFOLLOW) == ELOOP


@case
def writing_to_what_is_open_for_reading(view: View) -> None:
    put(view, b"file", b"content")
    file = view.open(b"file", os.O_RDONLY)
    assert outcome(view.pwrite, file, b"x", 0) == 9
    assert outcome(view.ftruncate, file, 0) in (9, EINVAL)
    view.close(file)
    file = view.open(b"file", os.O_WRONLY)
    assert outcome(view.pread, file, 1, 0) == 9
    view.close(file)


@case
def opening_a_directory_for_writing(view: View) -> None:
    view.mkdir(b"dir")
    for flags in (os.O_WRONLY, os.O_RDWR):
        assert outcome(view.open, b"dir", flags) == EISDIR


@case
def removed_directories_take_nothing(view: View) -> None:
    view.mkdir(b"dir")
    view.rmdir(b"dir")
    for step in MAKERS.values():
        assert outcome(step, view, b"dir/x") == ENOENT
