"""Names of extended attributes, mapped and not; ACLs."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.fs.passthrough import Options, XattrMap
from tests.fuse import guest as fuse
from tests.passthrough.shared import Share, created

NOBODY = 65534


def shared(folder: Path, options: Options) -> Iterator[Share]:
    made = Share(folder, options)
    made.put("file", b"content")
    yield made
    made.end()


def names(share: Share, node: int) -> list[bytes]:
    return share.guest.good(fuse.LISTXATTR, node, struct.pack("<II", 60000, 0)).split(b"\0")[:-1]


def get(share: Share, node: int, name: bytes) -> bytes | int:
    reply = share.call(fuse.GETXATTR, node, struct.pack("<II", 60000, 0) + name + b"\0")
    return reply.error or reply.body


def put(share: Share, node: int, name: bytes, value: bytes) -> int:
    return share.call(fuse.SETXATTR, node, struct.pack("<II", len(value), 0) + name + b"\0" + value).error


# The map itself


def test_everything_below_one_prefix() -> None:
    mapping = XattrMap([(b"", b"user.guest.")])
    assert mapping.to_host(b"security.capability") == b"user.guest.security.capability"
    assert mapping.to_guest([b"user.guest.user.x", b"user.other", b"security.selinux"]) == [b"user.x"]
    with pytest.raises(OSError, match="File name too long"):
        mapping.to_host(b"n" * 250)


def test_some_below_another_prefix() -> None:
    mapping = XattrMap([(b"trusted.", b"user.t."), (b"security.", b"user.s.")])
    assert mapping.to_host(b"trusted.overlay.x") == b"user.t.overlay.x"
    assert mapping.to_host(b"user.plain") == b"user.plain"
    assert mapping.to_guest([b"user.t.a", b"user.s.b", b"user.c", b"trusted.d"]) == [
        b"trusted.a",
        b"security.b",
        b"user.c",
    ]
    with pytest.raises(PermissionError):
        mapping.to_host(b"user.t.forged")  # it would be the guest's trusted.forged


def test_no_others() -> None:
    mapping = XattrMap([(b"user.", b"user.guest.")], others=False)
    assert mapping.to_guest([b"user.guest.x", b"user.x", b"trusted.y"]) == [b"user.x"]
    for name in (b"trusted.y", b"security.z"):
        with pytest.raises(PermissionError):
            mapping.to_host(name)


@pytest.mark.parametrize("rules", [[(b"a.", b"")], [(b"a.", b"user.x."), (b"b.", b"user.x.")]])
def test_rules_that_cannot_be(rules: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError, match="prefixes"):
        XattrMap(rules)


# Over a folder


def test_mapped(tmp_path: Path) -> None:
    for share in shared(tmp_path, Options(xattr_map=XattrMap([(b"", b"user.guest.")]))):
        node = share.node(b"file")
        assert put(share, node, b"trusted.a", b"1") == 0
        assert put(share, node, b"user.b", b"2") == 0
        os.setxattr(tmp_path / "file", "user.host", b"3")
        assert sorted(os.listxattr(tmp_path / "file")) == ["user.guest.trusted.a", "user.guest.user.b", "user.host"]
        assert sorted(names(share, node)) == [b"trusted.a", b"user.b"]
        assert get(share, node, b"trusted.a") == b"1"
        assert get(share, node, b"user.host") == errno.ENODATA
        assert share.call(fuse.REMOVEXATTR, node, b"trusted.a\0").error == 0
        assert names(share, node) == [b"user.b"]


def test_hidden_ones_are_not_there(tmp_path: Path) -> None:
    for share in shared(tmp_path, Options(xattr_map=XattrMap([(b"user.", b"user.guest.")], others=False))):
        node = share.node(b"file")
        assert get(share, node, b"security.capability") == errno.ENODATA
        assert put(share, node, b"trusted.x", b"1") == errno.EPERM


def test_switched_off(tmp_path: Path) -> None:
    """ENOSYS: the guest's kernel never asks again."""
    for share in shared(tmp_path, Options(xattr=False, posix_acl=True)):
        node = share.node(b"file")
        assert get(share, node, b"user.x") == errno.ENOSYS
        assert put(share, node, b"user.x", b"1") == errno.ENOSYS
        assert share.call(fuse.LISTXATTR, node, bytes(8)).error == errno.ENOSYS
        assert share.call(fuse.REMOVEXATTR, node, b"user.x\0").error == errno.ENOSYS


# ACLs


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NONE = (1 << 32) - 1
SHARED_WITH_7 = acl((1, 6, NONE), (2, 6, 7), (4, 4, NONE), (16, 6, NONE), (32, 0, NONE))


def test_acls_are_off_unless_asked_for(tmp_path: Path) -> None:
    for share in shared(tmp_path, Options()):
        node = share.node(b"file")
        assert put(share, node, b"system.posix_acl_access", SHARED_WITH_7) == errno.EOPNOTSUPP
        assert get(share, node, b"system.posix_acl_access") == errno.EOPNOTSUPP
        os.setxattr(tmp_path / "file", "system.posix_acl_access", SHARED_WITH_7)
        assert names(share, node) == []


def extended(share: Share, node: int, value: bytes, more: int) -> int:
    """SETXATTR once SETXATTR_EXT was agreed."""
    body = struct.pack("<IIII", len(value), 0, more, 0) + b"system.posix_acl_access\0" + value
    return share.call(fuse.SETXATTR, node, body).error


def test_acls(tmp_path: Path) -> None:
    for share in shared(tmp_path, Options(posix_acl=True)):
        node = share.node(b"file")
        assert extended(share, node, SHARED_WITH_7, 0) == 0
        assert get(share, node, b"system.posix_acl_access") == SHARED_WITH_7
        assert os.getxattr(tmp_path / "file", "system.posix_acl_access") == SHARED_WITH_7
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o660
        assert b"system.posix_acl_access" in names(share, node)


def test_an_acl_by_a_stranger_clears_the_set_group_id_bit(tmp_path: Path) -> None:
    for share in shared(tmp_path, Options(posix_acl=True)):
        node = share.node(b"file")
        for more, kept in ((0, stat.S_ISGID), (1, 0)):
            (tmp_path / "file").chmod(0o2770)
            assert extended(share, node, SHARED_WITH_7, more) == 0
            assert (tmp_path / "file").stat().st_mode & stat.S_ISGID == kept


def test_a_default_acl_goes_before_the_umask(tmp_path: Path) -> None:
    """Which is why the server applies the umask, and not the guest, also where ACLs are not shown."""
    for share in shared(tmp_path, Options()):
        (tmp_path / "d").mkdir()
        default = acl((1, 7, NONE), (4, 7, NONE), (32, 5, NONE))
        os.setxattr(tmp_path / "d", "system.posix_acl_default", default)
        node = share.node(b"d")
        created(share.create(node, b"file", mode=0o666, umask=0o077))
        assert stat.S_IMODE((tmp_path / "d/file").stat().st_mode) == 0o664
        created(share.create(1, b"other", mode=0o666, umask=0o077))
        assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o600
