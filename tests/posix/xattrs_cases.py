"""Extended attributes."""

from __future__ import annotations

import os
import stat
from errno import EEXIST, ENODATA, EOPNOTSUPP, EPERM

from tests.posix.table import add, case, outcome, put
from tests.posix.view import View

VALUES = {"empty": b"", "byte": b"\0", "text": b"text", "binary": bytes(range(256)), "large": b"v" * 2000}


def value(data: bytes, kind: str, view: View) -> None:
    if kind == "file":
        put(view, b"x")
    else:
        view.mkdir(b"x")
    view.setxattr(b"x", b"user.test", data)
    assert view.getxattr(b"x", b"user.test") == data
    assert b"user.test" in view.listxattr(b"x")
    view.setxattr(b"x", b"user.test", b"new" + data[:100])
    assert view.getxattr(b"x", b"user.test") == b"new" + data[:100]
    view.removexattr(b"x", b"user.test")
    assert outcome(view.getxattr, b"x", b"user.test") == ENODATA
    assert b"user.test" not in view.listxattr(b"x")


for _label, _data in VALUES.items():
    for _kind in ("file", "dir"):
        add(f"xattr_{_label}_{_kind}", value, _data, _kind)


@case
def creating_and_replacing(view: View) -> None:
    put(view, b"x")
    assert outcome(view.setxattr, b"x", b"user.a", b"1", os.XATTR_REPLACE) == ENODATA
    view.setxattr(b"x", b"user.a", b"1", os.XATTR_CREATE)
    assert outcome(view.setxattr, b"x", b"user.a", b"2", os.XATTR_CREATE) == EEXIST
    view.setxattr(b"x", b"user.a", b"2", os.XATTR_REPLACE)
    assert view.getxattr(b"x", b"user.a") == b"2"
    assert outcome(view.removexattr, b"x", b"user.b") == ENODATA


@case
def many_attributes(view: View) -> None:
    put(view, b"x")
    names = [b"user.%d" % number for number in range(30)]
    for name in names:
        view.setxattr(b"x", name, name)
    assert [name for name in sorted(view.listxattr(b"x")) if name.startswith(b"user.")] == sorted(names)


@case
def they_belong_to_the_file_not_the_name(view: View) -> None:
    put(view, b"a")
    view.setxattr(b"a", b"user.k", b"v")
    view.link(b"a", b"b")
    view.rename(b"a", b"c")
    assert (view.getxattr(b"b", b"user.k"), view.getxattr(b"c", b"user.k")) == (b"v", b"v")


@case
def links_and_fifos_have_no_user_attributes(view: View) -> None:
    view.symlink(b"x", b"link")
    view.mknod(b"fifo", stat.S_IFIFO | 0o600)
    for path in (b"link", b"fifo"):
        assert outcome(view.setxattr, path, b"user.a", b"1") in (EPERM, EOPNOTSUPP)
        assert view.listxattr(path) in ([], [b"security.selinux"])


@case(root=True)
def attributes_of_root(view: View) -> None:
    put(view, b"x")
    view.symlink(b"x", b"link")
    for path in (b"x", b"link"):
        view.setxattr(path, b"trusted.a", b"1")
        assert view.getxattr(path, b"trusted.a") == b"1"
