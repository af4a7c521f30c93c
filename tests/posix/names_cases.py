"""Every name that Linux allows, for everything that takes one."""

from __future__ import annotations

import os
import stat

from tests.posix.table import add, case, get, outcome, put
from tests.posix.view import View

NAMES = {
    "plain": b"plain",
    "one_byte": b"x",
    "longest": b"n" * 255,
    "utf8": "zażółć-日本".encode(),
    "not_utf8": b"\xff\xfe\x80 \xc3",
    "latin1": b"caf\xe9",
    "spaces": b"  two  words ",
    "newline": b"line\nfeed",
    "control": bytes(range(1, 32)),
    "dash": b"-rf",
    "three_dots": b"...",
    "hidden": b".hidden",
    "dot_at_end": b"end.",
    "backslash": b"back\\slash",
    "glob": b"*?[a]",
    "quote": b"'\"`$(x)",
    "percent": b"%s%n",
    "lock": b"CON",
}


def files(name: bytes, view: View) -> None:
    put(view, name, b"data")
    assert get(view, name) == b"data"
    assert view.names(b"") == [name]
    assert view.lstat(name).size == 4
    view.unlink(name)
    assert view.names(b"") == []


def directories(name: bytes, view: View) -> None:
    view.mkdir(name)
    put(view, name + b"/inside", b"1")
    assert view.names(name) == [b"inside"]
    view.unlink(name + b"/inside")
    view.rmdir(name)


def links(name: bytes, view: View) -> None:
    view.symlink(name, b"link-to")
    assert view.readlink(b"link-to") == name
    view.symlink(b"target", name)
    assert view.readlink(name) == b"target"
    assert view.lstat(name).mode & 0o170000 == stat.S_IFLNK
    view.unlink(name)


def hard_links(name: bytes, view: View) -> None:
    put(view, b"first", b"both")
    view.link(b"first", name)
    assert (get(view, name), view.stat(name).nlink) == (b"both", 2)
    assert view.stat(name).ino == view.stat(b"first").ino


def nodes(name: bytes, view: View) -> None:
    view.mknod(name, stat.S_IFIFO | 0o600)
    assert view.lstat(name).mode == stat.S_IFIFO | 0o600
    view.unlink(name)


def renaming(name: bytes, view: View) -> None:
    put(view, b"old", b"moved")
    view.rename(b"old", name)
    assert get(view, name) == b"moved"
    view.mkdir(b"sub")
    view.rename(name, b"sub/" + name)
    assert view.names(b"sub") == [name]
    view.rename(b"sub/" + name, b"back")
    assert view.names(b"") == [b"back", b"sub"]


for _label, _name in NAMES.items():
    for _function in (files, directories, links, hard_links, nodes, renaming):
        add(f"name_{_label}_{_function.__name__}", _function, _name)


@case
def names_differ_by_case_and_bytes(view: View) -> None:
    for name in (b"a", b"A", b"\xc3\xa9", b"e\xcc\x81"):
        put(view, name, name)
    assert view.names(b"") == sorted([b"a", b"A", b"\xc3\xa9", b"e\xcc\x81"])
    assert get(view, b"\xc3\xa9") == b"\xc3\xa9"


@case(kernel=True)
def a_name_of_256_bytes(view: View) -> None:
    for operation in (view.lstat, view.mkdir, view.unlink):
        assert outcome(operation, b"n" * 256) == 36


@case
def deep_trees(view: View) -> None:
    path = b"d"
    view.mkdir(path)
    for _ in range(60):
        path += b"/d"
        view.mkdir(path)
    put(view, path + b"/file", b"deep")
    assert get(view, path + b"/file") == b"deep"
    view.unlink(path + b"/file")
    while path:
        view.rmdir(path)
        path = path.rpartition(b"/")[0]


@case
def a_file_may_have_many_names(view: View) -> None:
    put(view, b"0", b"same")
    for number in range(1, 50):
        view.link(b"%d" % (number - 1), b"%d" % number)
    assert view.stat(b"0").nlink == 50
    for number in range(49):
        view.unlink(b"%d" % number)
    assert (view.stat(b"49").nlink, get(view, b"49")) == (1, b"same")


@case
def a_name_comes_and_goes(view: View) -> None:
    for number in range(20):
        put(view, b"name", b"%d" % number)
        assert get(view, b"name") == b"%d" % number
        view.unlink(b"name")
        assert outcome(view.lstat, b"name") == 2
        view.mkdir(b"name")
        assert stat.S_ISDIR(view.lstat(b"name").mode)
        view.rmdir(b"name")
        view.symlink(b"%d" % number, b"name")
        assert view.readlink(b"name") == b"%d" % number
        view.unlink(b"name")


@case
def exclusive_creation_makes_one_file(view: View) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    view.close(view.open(b"x", flags))
    assert outcome(view.open, b"x", flags) == 17
