"""EXPORT_FD, and the table it fills."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.fs.passthrough import EXPORT_FD, ExportTable, Options
from tests.fuse.guest import Reply
from tests.passthrough.shared import Share, descriptors


@pytest.fixture
def table() -> Iterator[ExportTable]:
    made = ExportTable(limit=3)
    yield made
    made.close()


@pytest.fixture
def share(tmp_path: Path, table: ExportTable) -> Iterator[Share]:
    made = Share(tmp_path, Options(exports=table, file_system=77))
    made.put("file", b"content")
    yield made
    made.end()


def export(share: Share, node: int, handle: int, size: int = 16) -> Reply:
    return share.guest.ioctl(node, EXPORT_FD, 0, b"", size, handle)


def test_its_number() -> None:
    assert 2 << 30 | 16 << 16 | ord("v") << 8 | 1 == EXPORT_FD  # _IOR('v', 1, 16)


def test_an_open_file_is_exported(share: Share, table: ExportTable) -> None:
    node = share.node(b"file")
    handle = share.guest.open(node)
    body = export(share, node, handle).body
    assert len(body) == 16 + 16  # struct fuse_ioctl_out, and what the ioctl answers
    file_system, number = struct.unpack("=QQ", body[16:])
    assert file_system == 77
    descriptor = table.get(file_system, number)
    assert descriptor is not None
    assert os.pread(descriptor, 100, 0) == b"content"
    os.close(descriptor)
    assert export(share, node, handle).body == body, "again the same"
    assert len(table) == 1
    share.guest.release(node, handle)
    assert len(table) == 0
    assert table.get(file_system, number) is None


def test_what_cannot_be_exported(share: Share, table: ExportTable) -> None:
    node = share.node(b"file")
    handle = share.guest.open(node)
    for wrong in (handle + 1, 0, (1 << 64) - 1):
        assert export(share, node, wrong).error == errno.EBADF
    assert export(share, 1, handle).error == errno.EBADF
    for size in (0, 8, 15, 17, 32):
        assert export(share, node, handle, size).error == errno.EINVAL
    for command in (0x1234, 0x7601, EXPORT_FD + 1, 0x5401):
        assert share.guest.ioctl(node, command, 0, b"", 16, handle).error == errno.EOPNOTSUPP
    assert len(table) == 0


def test_without_a_table(tmp_path: Path) -> None:
    share = Share(tmp_path)
    share.put("file")
    node = share.node(b"file")
    assert export(share, node, share.guest.open(node)).error == errno.EOPNOTSUPP
    share.end()


def test_the_table_is_bounded(share: Share, table: ExportTable) -> None:
    node = share.node(b"file")
    handles = [share.guest.open(node) for _ in range(5)]
    assert [export(share, node, handle).error for handle in handles] == [0, 0, 0, errno.ENOSPC, errno.ENOSPC]
    share.guest.release(node, handles[0])
    assert export(share, node, handles[3]).error == 0


def test_a_guest_that_goes_takes_its_exports_along(share: Share, table: ExportTable) -> None:
    before = descriptors()
    node = share.node(b"file")
    export(share, node, share.guest.open(node))
    share.guest.server.reset()
    assert len(table) == 0
    assert descriptors() <= before
    share.guest.init()


def test_two_file_systems_share_a_table(tmp_path: Path, table: ExportTable) -> None:
    shares = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        share = Share(folder, Options(exports=table, file_system=number))
        share.put("file", b"%d" % number)
        node = share.node(b"file")
        body = export(share, node, share.guest.open(node)).body[16:]
        shares.append((share, struct.unpack("=QQ", body)))
    for number, (_, key) in enumerate(shares, 1):
        descriptor = table.get(*key)
        assert descriptor is not None
        assert os.pread(descriptor, 9, 0) == b"%d" % number
        os.close(descriptor)
    for share, _ in shares:
        share.guest.server.reset()
        share.fs.close()
