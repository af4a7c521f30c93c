"""rename(2) and renameat2(2): every kind of thing onto every other, against a model of the rules."""

from __future__ import annotations

import stat
from errno import EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY

from tests.posix.table import add, case, get, outcome, put
from tests.posix.view import EXCHANGE, NOREPLACE, WHITEOUT, View

KINDS = ("file", "empty", "full", "link", "fifo", "missing")
DIRECTORIES = ("empty", "full")
MODES = {"file": stat.S_IFREG, "empty": stat.S_IFDIR, "full": stat.S_IFDIR, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO}


def make(view: View, kind: str, path: bytes) -> None:
    if kind == "file":
        put(view, path, path)
    elif kind in DIRECTORIES:
        view.mkdir(path)
        if kind == "full":
            put(view, path + b"/inside", path)
    elif kind == "link":
        view.symlink(path, path)
    elif kind == "fifo":
        view.mknod(path, stat.S_IFIFO | 0o644)


def rules(source: str, target: str, flags: int) -> int:
    """What Linux says."""
    if source == "missing":
        return ENOENT
    if flags & NOREPLACE:
        return 0 if target == "missing" else EEXIST
    if flags & EXCHANGE:
        return ENOENT if target == "missing" else 0
    if target == "missing":
        return 0
    if source in DIRECTORIES:
        return ENOTDIR if target not in DIRECTORIES else ENOTEMPTY if target == "full" else 0
    return EISDIR if target in DIRECTORIES else 0


def renaming(source: str, target: str, flags: int, far: bool, view: View) -> None:
    place = b"sub/" if far else b""
    if far:
        view.mkdir(b"sub")
    make(view, source, b"source")
    make(view, target, place + b"target")
    numbers = {
        path: view.lstat(path).ino
        for path, kind in ((b"source", source), (place + b"target", target))
        if kind != "missing"
    }
    expected = rules(source, target, flags)
    assert outcome(view.rename, b"source", place + b"target", flags) == expected
    if expected:
        for path, number in numbers.items():
            assert view.lstat(path).ino == number
        return
    moved = view.lstat(place + b"target")
    assert (moved.ino, stat.S_IFMT(moved.mode)) == (numbers[b"source"], MODES[source])
    if flags & EXCHANGE:
        back = view.lstat(b"source")
        assert (back.ino, stat.S_IFMT(back.mode)) == (numbers[place + b"target"], MODES[target])
    else:
        assert outcome(view.lstat, b"source") == ENOENT
    if source == "full":
        assert get(view, place + b"target/inside") == b"source"
    elif source == "file":
        assert get(view, place + b"target") == b"source"


for _source in KINDS:
    for _target in KINDS:
        for _label, _flags in (("", 0), ("_noreplace", NOREPLACE), ("_exchange", EXCHANGE)):
            for _far in (False, True):
                _where = "_elsewhere" if _far else ""
                add(f"rename_{_source}_to_{_target}{_label}{_where}", renaming, _source, _target, _flags, _far)


@case
def onto_itself_and_onto_its_other_name(view: View) -> None:
    put(view, b"a", b"same")
    view.rename(b"a", b"a")
    view.link(b"a", b"b")
    view.rename(b"a", b"b")  # POSIX: nothing happens
    assert view.names(b"") == [b"a", b"b"]
    assert view.stat(b"a").nlink == 2


@case
def into_its_own_inside(view: View) -> None:
    view.mkdir(b"a")
    view.mkdir(b"a/b")
    assert outcome(view.rename, b"a", b"a/b/c") == EINVAL
    assert outcome(view.rename, b"a/b", b"a") in (ENOTEMPTY, EEXIST)


@case
def a_tree_moves_with_all_that_is_known_of_it(view: View) -> None:
    view.mkdir(b"one")
    view.mkdir(b"one/two")
    put(view, b"one/two/file", b"content")
    file = view.open(b"one/two/file", 2)
    view.mkdir(b"away")
    view.rename(b"one", b"away/one")
    assert get(view, b"away/one/two/file") == b"content"
    assert view.pwrite(file, b"CON", 0) == 3
    assert get(view, b"away/one/two/file") == b"CONtent"
    view.rename(b"away/one/two", b"two")
    assert view.names(b"") == [b"away", b"two"]
    assert get(view, b"two/file") == b"CONtent"
    view.close(file)


@case
def the_loser_lives_on_where_it_is_open(view: View) -> None:
    put(view, b"old", b"old")
    put(view, b"new", b"new")
    file = view.open(b"old", 2)
    view.rename(b"new", b"old")
    assert (view.pread(file, 10, 0), view.fstat(file).nlink) == (b"old", 0)
    view.pwrite(file, b"OLD", 0)
    assert get(view, b"old") == b"new"
    assert view.pread(file, 10, 0) == b"OLD"
    view.close(file)


@case
def exchanging_keeps_both(view: View) -> None:
    put(view, b"a", b"was a")
    view.mkdir(b"d")
    put(view, b"d/b", b"was b")
    for _ in range(3):
        view.rename(b"a", b"d/b", EXCHANGE)
    assert (get(view, b"a"), get(view, b"d/b")) == (b"was b", b"was a")
    view.rename(b"d", b"a", EXCHANGE)
    assert (get(view, b"d"), get(view, b"a/b")) == (b"was b", b"was a")


@case(root=True)
def a_whiteout_stays_behind(view: View) -> None:
    put(view, b"a", b"content")
    view.rename(b"a", b"b", WHITEOUT)
    left = view.lstat(b"a")
    assert (stat.S_IFMT(left.mode), left.rdev) == (stat.S_IFCHR, 0)
    assert get(view, b"b") == b"content"


@case
def flags_that_exclude_each_other(view: View) -> None:
    put(view, b"a")
    put(view, b"b")
    assert outcome(view.rename, b"a", b"b", NOREPLACE | EXCHANGE) == EINVAL
    assert outcome(view.rename, b"a", b"b", WHITEOUT | EXCHANGE) == EINVAL
    assert outcome(view.rename, b"a", b"b", 1 << 10) == EINVAL


@case
def many_renames(view: View) -> None:
    view.mkdir(b"d")
    put(view, b"0", b"wanderer")
    for number in range(40):
        view.rename(b"%d" % number if number % 2 == 0 else b"d/%d" % number, _next(number))
    assert get(view, b"40") == b"wanderer"
    assert view.names(b"d") == []


def _next(number: int) -> bytes:
    return b"d/%d" % (number + 1) if number % 2 == 0 else b"%d" % (number + 1)
