"""SYNCFS reaches the host's file system when the guest has changed something, and only then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pykrun.fs.passthrough import Options
from pykrun.fs.readonly import ReadOnly
from pykrun.host import files
from tests.fuse import guest as fuse
from tests.passthrough.shared import Share, created
from tests.passthrough.test_read_only import changing


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The calls that were made; the machine's own disks are left alone."""
    made: list[int] = []
    monkeypatch.setattr(files, "sync_file_system", made.append)
    return made


def filled(folder: Path, options: Options | None = None) -> Share:
    folder.mkdir()
    share = Share(folder, options)
    share.put("file", b"content")
    share.put("dir/inside", b"i")
    os.setxattr(folder / "file", "user.x", b"v")
    os.symlink("file", folder / "link")
    return share


def sync(share: Share) -> None:
    assert share.call(fuse.SYNCFS, 1, bytes(8)).error == 0


def test_who_only_reads_has_nothing_to_sync(tmp_path: Path, syncs: list[int]) -> None:
    share = filled(tmp_path / "share")
    assert share.guest.content(b"/dir/inside") == b"i"
    assert share.guest.names(1)
    sync(share)
    assert syncs == []
    share.end()


def test_a_read_only_share_has_nothing_to_sync(tmp_path: Path, syncs: list[int]) -> None:
    share = Share(tmp_path, wrap=ReadOnly)
    sync(share)
    assert syncs == []
    share.end()


def test_every_change_is_to_be_synced(tmp_path: Path, syncs: list[int]) -> None:
    first = filled(tmp_path / "first")
    number = len(list(changing(first)))
    first.end()
    changed = 0
    for index in range(number):
        share = filled(tmp_path / f"share{index}")
        opcode, node, body = list(changing(share))[index]
        if opcode not in (fuse.OPEN, fuse.ACCESS, fuse.IOCTL):
            error = share.call(opcode, node, body).error
            sync(share)
            assert error or len(syncs) == 1, (index, opcode)
            changed += not error
            syncs.clear()
        share.end()
    assert changed > 10  # the others need a handle that is open for writing, which is a change by itself


def test_files_that_are_written_are_to_be_synced(tmp_path: Path, syncs: list[int]) -> None:
    for index, flags in enumerate((os.O_WRONLY, os.O_RDWR, os.O_TRUNC)):
        share = filled(tmp_path / f"open{index}")
        share.guest.open(share.node(b"file"), flags)
        sync(share)
        sync(share)
        assert len(syncs) == 2
        syncs.clear()
        share.end()
    share = filled(tmp_path / "create")
    created(share.create(1, b"new", os.O_RDONLY))
    sync(share)
    assert len(syncs) == 1
    share.end()
