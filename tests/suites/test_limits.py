"""Limits of the host's file system that are not its size: quotas, and the number of a file's names."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.suites.conftest import Share, program, run, serve
from tests.suites.guest import until_refused
from tests.support.command import wait_until
from tests.support.inside import VOLUME, run_inside
from tests.support.processes import NOBODY

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here"),
]

LIMIT = 8 << 20


def on_loop(image: Path, target: Path, size: int, make: list[str], options: str = "loop") -> None:
    """Make a file system in an image and mount it, or skip with what the kernel says."""
    with image.open("wb") as stream:
        stream.truncate(size)
    run([*make, image], target.parent)
    done = subprocess.run(["mount", "-o", options, image, target], capture_output=True, text=True, check=False)
    if done.returncode:
        missing = "CONFIG_QFMT_V2" if "quota" in options else "the file system"
        pytest.skip(f"cannot mount what {Path(make[0]).name} made: no loop devices, or the kernel lacks {missing}")


def ext4(top: Path) -> Path:
    """A folder whose owner, nobody, has a quota."""
    setquota = program("setquota", "quota")
    place = top / "disk"
    make = ["mke2fs", "-q", "-O", "^has_journal,quota", "-E", "quotatype=usrquota", "-t", "ext4"]
    on_loop(top / "image", place, 64 << 20, make, "loop,usrquota")
    run([setquota, "-u", str(NOBODY), "0", str(LIMIT >> 10), "0", "0", place], top)
    (place / "limited").mkdir()
    return place / "limited"


def btrfs(top: Path) -> Path:
    """A subvolume with a quota."""
    tool, make = program("btrfs", "btrfs-progs"), program("mkfs.btrfs", "btrfs-progs")
    place = top / "disk"
    on_loop(top / "image", place, 200 << 20, [make, "-q", "-f"])
    run([tool, "quota", "enable", place], top)
    run([tool, "subvolume", "create", place / "limited"], top)
    run([tool, "qgroup", "limit", str(LIMIT), place / "limited"], top)
    return place / "limited"


@pytest.fixture(params=[ext4, btrfs])
def limited(request: pytest.FixtureRequest, top: Path) -> Iterator[Path]:
    (top / "disk").mkdir()
    try:
        folder: Path = request.param(top)
        os.chown(folder, NOBODY, NOBODY)
        yield folder
    finally:
        subprocess.run(["umount", "-l", top / "disk"], stderr=subprocess.DEVNULL, check=False)


def check(folder: Path, told: list[int]) -> None:
    """It was the quota that ended it, and what was written before is there."""
    written, code = told
    assert code == errno.EDQUOT
    assert LIMIT // 2 < written <= LIMIT
    data = (folder / "big").read_bytes()
    assert len(data) == written
    assert all(data[at : at + 8] == b"%08d" % at for at in range(0, written, 4096))
    assert (folder / "big").stat().st_uid == NOBODY
    assert (folder / "kept").read_bytes() == b"k" * 100_000


def test_a_quota_over_a_mount(limited: Path, top: Path) -> None:
    (limited / "kept").write_bytes(b"k" * 100_000)
    for share in serve(limited, top / "target"):
        check(limited, until_refused(str(share.target), NOBODY))
        assert (share.target / "kept").read_bytes() == b"k" * 100_000
        # The host has its room back when the kernel has told the server to forget the file, a moment later.
        wait_until(partial(room_again, share), 60)


def room_again(share: Share) -> bool:
    (share.target / "big").unlink(missing_ok=True)
    run(["sync", "-f", share.source], share.source)
    return until_refused(str(share.target), NOBODY)[0] > LIMIT // 2


@pytest.mark.uml
def test_a_quota_in_a_guest(limited: Path) -> None:
    (limited / "kept").write_bytes(b"k" * 100_000)
    (told,) = run_inside("uml", limited, f"tests.suites.guest.quota({VOLUME!r}, {NOBODY})", timeout=300)
    check(limited, told)


def test_the_most_names_of_a_file(top: Path) -> None:
    """ext4 gives a file 65,000."""
    source = top / "source"
    on_loop(top / "image", source, 32 << 20, ["mke2fs", "-q", "-O", "^has_journal", "-t", "ext4"])
    try:
        (source / "file").touch()
        number = 1
        while number < 64_999:
            os.link(source / "file", source / str(number))
            number += 1
        for share in serve(source, top / "target"):
            links(share)
    finally:
        run(["umount", "-l", source], top)


def links(share: Share) -> None:
    os.link(share.target / "file", share.target / "last")
    assert (share.target / "last").stat().st_nlink == 65_000
    with pytest.raises(OSError, match=os.strerror(errno.EMLINK)):
        os.link(share.target / "file", share.target / "more")
    assert not (share.source / "more").exists()
    os.unlink(share.target / "1")
    os.link(share.target / "file", share.target / "more")
    assert (share.source / "file").stat().st_nlink == 65_000
