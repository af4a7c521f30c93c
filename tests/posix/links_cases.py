"""Symbolic and hard links."""

from __future__ import annotations

import stat
from errno import ENAMETOOLONG, ENOENT

from tests.posix.table import add, case, get, outcome, put
from tests.posix.view import View

TARGETS = {
    "name": b"file",
    "absolute": b"/etc/passwd",
    "above": b"../../../../../../etc/passwd",
    "dots": b"..",
    "self": b"link",
    "spaces": b" a b ",
    "not_utf8": b"\xff\xfe",
    "slashes": b"a//b///c/",
    "long": b"x" * 255 + b"/" + b"y" * 255,
    "longest": b"t" * 4095,
}


def target(text: bytes, view: View) -> None:
    view.symlink(text, b"link")
    assert view.readlink(b"link") == text
    assert view.lstat(b"link").size == len(text)
    view.rename(b"link", b"moved")
    assert view.readlink(b"moved") == text
    view.link(b"moved", b"second")
    assert (view.readlink(b"second"), view.lstat(b"second").nlink) == (text, 2)
    view.unlink(b"moved")
    assert view.readlink(b"second") == text


for _label, _text in TARGETS.items():
    add(f"symlink_{_label}", target, _text)


@case(kernel=True)
def targets_that_are_too_long_or_empty(view: View) -> None:
    assert outcome(view.symlink, b"t" * 4096, b"link") == ENAMETOOLONG
    assert outcome(view.symlink, b"", b"link") == ENOENT


@case
def a_hard_link_is_the_file(view: View) -> None:
    put(view, b"a", b"one")
    view.link(b"a", b"b")
    view.mkdir(b"d")
    view.link(b"b", b"d/c")
    put(view, b"d/c", b"two")
    assert get(view, b"a") == b"two"
    view.chmod(b"b", 0o600)
    assert stat.S_IMODE(view.stat(b"a").mode) == 0o600
    assert view.stat(b"d/c").nlink == 3
    view.unlink(b"a")
    assert (get(view, b"b"), view.stat(b"b").nlink) == (b"two", 2)


@case
def hard_links_of_other_kinds(view: View) -> None:
    view.mknod(b"fifo", stat.S_IFIFO | 0o600)
    view.link(b"fifo", b"again")
    assert view.lstat(b"again").nlink == 2
    view.unlink(b"fifo")
    assert stat.S_ISFIFO(view.lstat(b"again").mode)


@case
def linking_what_was_removed(view: View) -> None:
    file = view.open(b"x", 2 | 0o100)
    view.unlink(b"x")
    assert outcome(view.link_file, file, b"y") == ENOENT
    view.close(file)


@case
def chains_of_links(view: View) -> None:
    put(view, b"0", b"end")
    for number in range(1, 30):
        view.symlink(b"%d" % (number - 1), b"%d" % number)
    assert get(view, b"29") == b"end"
    view.unlink(b"15")
    assert outcome(view.stat, b"29") == ENOENT


@case
def a_link_that_changes_its_target(view: View) -> None:
    put(view, b"one", b"1")
    put(view, b"two", b"2")
    for name in (b"one", b"two") * 5:
        view.symlink(name, b"new")
        view.rename(b"new", b"link")
        assert view.readlink(b"link") == name
        assert get(view, b"link") == (b"1" if name == b"one" else b"2")
