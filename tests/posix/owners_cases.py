"""Owners, set-ID bits, and who may do what."""

from __future__ import annotations

import os
import stat
from errno import EACCES, EPERM

from tests.posix.table import add, case, get, outcome, put
from tests.posix.view import View


@case
def what_is_made_belongs_to_its_maker(view: View) -> None:
    put(view, b"file")
    view.mkdir(b"dir")
    view.symlink(b"t", b"link")
    view.mknod(b"fifo", stat.S_IFIFO | 0o600)
    for name in (b"file", b"dir", b"link", b"fifo"):
        assert (view.lstat(name).uid, view.lstat(name).gid) == (view.uid, view.gid)


def owning(kind: str, uid: int, gid: int, view: View) -> None:
    if kind == "file":
        put(view, b"x")
    elif kind == "dir":
        view.mkdir(b"x")
    elif kind == "link":
        view.symlink(b"t", b"x")
    else:
        view.mknod(b"x", stat.S_IFIFO | 0o600)
    before = view.lstat(b"x")
    view.chown(b"x", uid, gid)
    after = view.lstat(b"x")
    assert after.uid == (before.uid if uid < 0 else uid)
    assert after.gid == (before.gid if gid < 0 else gid)
    assert (after.mode, after.mtime_ns) == (before.mode, before.mtime_ns)


for _kind in ("file", "dir", "link", "fifo"):
    for _uid, _gid in ((1000, 1001), (-1, 5), (7, -1), ((1 << 31) + 5, (1 << 32) - 3), (-1, -1)):
        add(f"chown_{_kind}_{_uid}_{_gid}", owning, _kind, _uid, _gid, root=True)


@case(root=True)
def a_change_of_owner_clears_set_id_bits(view: View) -> None:
    put(view, b"x")
    view.chmod(b"x", 0o6755)
    view.chown(b"x", 5, 6)
    assert stat.S_IMODE(view.lstat(b"x").mode) == 0o755
    view.mkdir(b"d")
    view.chmod(b"d", 0o2775)
    view.chown(b"d", 5, 6)
    assert stat.S_IMODE(view.lstat(b"d").mode) == 0o2775


@case(root=True)
def a_change_of_owner_clears_capabilities(view: View) -> None:
    put(view, b"x")
    capability = b"\x01\x00\x00\x02" + b"\x01" + bytes(15)
    view.setxattr(b"x", b"security.capability", capability)
    view.chown(b"x", 5, 6)
    assert b"security.capability" not in view.listxattr(b"x")


@case(root=True)
def writing_clears_capabilities(view: View) -> None:
    put(view, b"x", b"program")
    view.setxattr(b"x", b"security.capability", b"\x01\x00\x00\x02" + b"\x01" + bytes(15))
    file = view.open(b"x", os.O_WRONLY)
    view.pwrite(file, b"P", 0)
    view.close(file)
    assert b"security.capability" not in view.listxattr(b"x")


@case(root=True)
def devices(view: View) -> None:
    for name, mode, device in (
        (b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        (b"disk", stat.S_IFBLK | 0o600, os.makedev(8, 17)),
        (b"large", stat.S_IFCHR | 0o600, os.makedev(511, 0xABCDE)),
    ):
        view.mknod(name, mode, device)
        assert (view.lstat(name).mode, view.lstat(name).rdev) == (mode, device)


@case(root=True)
def set_group_id_directories_pass_their_group_on(view: View) -> None:
    view.mkdir(b"d")
    view.chown(b"d", 0, 77)
    view.chmod(b"d", 0o2777)
    put(view, b"d/file")
    view.mkdir(b"d/sub")
    view.symlink(b"t", b"d/link")
    assert {view.lstat(b"d/" + name).gid for name in (b"file", b"sub", b"link")} == {77}
    assert view.lstat(b"d/sub").mode & stat.S_ISGID
    assert not view.lstat(b"d/file").mode & stat.S_ISGID


@case
def sticky_and_set_id_bits_are_kept(view: View) -> None:
    view.mkdir(b"d")
    view.chmod(b"d", 0o1777)
    put(view, b"x")
    view.chmod(b"x", 0o4755)
    assert stat.S_IMODE(view.lstat(b"d").mode) == 0o1777
    assert stat.S_IMODE(view.lstat(b"x").mode) == 0o4755


@case(kernel=True)
def writing_by_others_clears_set_id_bits(view: View) -> None:
    put(view, b"x", b"program")
    view.chmod(b"x", 0o6777)
    file = view.open(b"x", os.O_WRONLY)
    view.pwrite(file, b"P", 0)
    view.close(file)
    kept = 0o6777 if view.uid == 0 else 0o777
    assert stat.S_IMODE(view.lstat(b"x").mode) == kept
    view.chmod(b"x", 0o6777)
    view.truncate(b"x", 1)
    assert stat.S_IMODE(view.lstat(b"x").mode) == kept
    view.chmod(b"x", 0o6777)
    view.close(view.open(b"x", os.O_WRONLY | os.O_TRUNC))
    assert stat.S_IMODE(view.lstat(b"x").mode) == kept


@case(kernel=True)
def permissions_hold(view: View) -> None:
    refused = EACCES if view.uid else 0
    put(view, b"secret", b"s", 0o600)
    view.chmod(b"secret", 0)
    assert outcome(lambda: view.close(view.open(b"secret", os.O_RDONLY))) == refused
    assert outcome(lambda: view.close(view.open(b"secret", os.O_WRONLY))) == refused
    view.mkdir(b"closed")
    put(view, b"closed/inside", b"i")
    view.chmod(b"closed", 0)
    assert outcome(view.names, b"closed") == refused
    assert outcome(get, view, b"closed/inside") == refused
    assert outcome(put, view, b"closed/new") == refused
    view.chmod(b"closed", 0o500)
    assert get(view, b"closed/inside") == b"i"
    assert outcome(view.mkdir, b"closed/newer") == refused
    assert outcome(view.unlink, b"closed/inside") == refused
    view.chmod(b"closed", 0o700)


@case(kernel=True)
def giving_files_away_takes_root(view: View) -> None:
    put(view, b"x")
    expected = 0 if view.uid == 0 else EPERM
    assert outcome(view.chown, b"x", 12345, -1) == expected
    assert outcome(view.chown, b"x", -1, 12345) == expected
    assert outcome(view.mknod, b"dev", stat.S_IFCHR | 0o600, os.makedev(1, 3)) == expected
