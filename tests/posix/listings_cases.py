"""Listings: complete, without doubles, also while names come and go."""

from __future__ import annotations

from errno import ENOTEMPTY

from tests.posix.table import add, case, outcome, put
from tests.posix.view import View


def of_size(count: int, length: int, view: View) -> None:
    names = sorted(b"%0*d" % (length, number) for number in range(count))
    for name in names:
        view.symlink(b"x", name)
    assert view.names(b"") == names
    for name in names[::2]:
        view.unlink(name)
    assert view.names(b"") == names[1::2]


for _count, _length in ((0, 1), (1, 1), (2, 1), (10, 255), (100, 8), (130, 3), (500, 100), (1500, 12)):
    add(f"listing_of_{_count}_names_of_{_length}", of_size, _count, _length)


@case
def each_directory_has_its_own(view: View) -> None:
    for number in range(20):
        view.mkdir(b"%d" % number)
        for inner in range(number):
            put(view, b"%d/%d" % (number, inner))
    for number in range(20):
        assert len(view.names(b"%d" % number)) == number


@case
def a_directory_that_is_not_empty_stays(view: View) -> None:
    view.mkdir(b"d")
    put(view, b"d/x")
    assert outcome(view.rmdir, b"d") == ENOTEMPTY
    view.unlink(b"d/x")
    view.rmdir(b"d")
    assert view.names(b"") == []


@case
def listings_follow_changes(view: View) -> None:
    view.mkdir(b"d")
    for number in range(30):
        put(view, b"d/%d" % number)
        assert len(view.names(b"d")) == number + 1
    for number in range(30):
        view.rename(b"d/%d" % number, b"d/new%d" % number)
    assert view.names(b"d") == sorted(b"new%d" % number for number in range(30))


@case
def listed_numbers_are_those_of_stat(view: View) -> None:
    put(view, b"file")
    view.mkdir(b"dir")
    assert set(view.kinds(b"")) == {b"file", b"dir"}
    assert view.lstat(b"file").ino != view.lstat(b"dir").ino
