"""Two folders of one ext4 file system, and the second one through `pykrun mount` or in a guest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.servers import Running
from tests.conformance.world import Company
from tests.support.command import Pykrun


class Place(NamedTuple):
    """Folders of one file system: of the host alone, and shared; and a folder on another one."""

    host: Path
    shared: Path
    elsewhere: str


@pytest.fixture(scope="module")
def company() -> Iterator[Company]:
    company = Company()
    yield company
    company.close()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """ext4 from an image in memory; the machine's own disk where there are no loop devices."""
    top = Path(tempfile.mkdtemp(prefix="pykrun-conf", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    top.chmod(0o755)
    disk = top / "disk"
    disk.mkdir()
    mounted = _mount_ext4(top / "image", disk)
    if not mounted:
        disk = Path(tempfile.mkdtemp(prefix="pykrun-conf", dir="/var/tmp"))
        disk.chmod(0o755)
    (top / "elsewhere").mkdir()
    try:
        for name in ("host", "shared"):
            (disk / name).mkdir()
            (disk / name).chmod(0o755)
        yield Place(disk / "host", disk / "shared", str(top / "elsewhere"))
    finally:
        if mounted:
            subprocess.run(["umount", "-l", disk], check=True)
        else:
            shutil.rmtree(disk)
        shutil.rmtree(top)


def _mount_ext4(image: Path, target: Path) -> bool:
    with image.open("wb") as stream:
        stream.truncate(400 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", image], check=True)
    done = subprocess.run(["mount", "-o", "loop", image, target], stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


@pytest.fixture(scope="module")
def over_mount(place: Place, company: Company) -> Iterator[Path]:
    """Where `pykrun mount` shows the shared folder; as root, in its sandbox."""
    with tempfile.TemporaryDirectory(prefix="pykrun-conf") as target:
        os.chmod(target, 0o755)
        pykrun = Pykrun()
        try:
            with Running(pykrun, ["mount", target, "--shared-dir", str(place.shared)]) as running:
                running.wait_for("mounted on")
                yield Path(target)
                assert running.end(signal.SIGTERM) == 0
            assert running.said.count("\n") == 1, "no fault was reported"
        finally:
            assert pykrun.close() == []
