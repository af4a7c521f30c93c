"""A kernel with virtio-fs built in boots straight into its root: no initramfs, init comes from the file system itself.

No distribution has such a kernel for User Mode Linux, so it is built here, from the distribution's source: minutes the
first time, kept in the cache. It needs flex, bison and bc.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from pykrun.host.cache import cache_directory
from pykrun.kernel import for_image
from pykrun.kernel.initramfs import initramfs
from tests.support.command import Pykrun

PACKAGE = "linux-source-6.1"
WANTED = ("FUSE_FS", "VIRTIO_UML", "VIRTIO_FS", "VIRTIO_CONSOLE", "DEVTMPFS", "TMPFS", "UNIX98_PTYS", "CGROUPS")
UNWANTED = ("MODULES", "SOUND", "UML_SOUND", "IKCONFIG")
MINUTES = 40 * 60

pytestmark = [pytest.mark.full, pytest.mark.uml]


def build(target: Path) -> None:
    missing = [tool for tool in ("flex", "bison", "bc", "make", "gcc") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"to build a kernel: apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        if subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, capture_output=True, timeout=600).returncode:
            pytest.skip(f"apt-get download {PACKAGE}: not to be had")
        package = next(folder.glob("*.deb"))
        subprocess.run(["dpkg", "-x", package, folder], check=True, timeout=600)
        archive = next(folder.glob(f"usr/src/{PACKAGE}.tar.*"))
        subprocess.run(["tar", "xf", archive], cwd=folder, check=True, timeout=600)
        source = folder / PACKAGE
        make = ["make", "ARCH=um", "-s"]
        subprocess.run([*make, "defconfig"], cwd=source, check=True, timeout=600)
        options = [word for option in WANTED for word in ("-e", option)]
        options += [word for option in UNWANTED for word in ("-d", option)]
        subprocess.run(["scripts/config", *options], cwd=source, check=True, timeout=60)
        subprocess.run([*make, "olddefconfig"], cwd=source, check=True, timeout=600)
        subprocess.run([*make, "-j2"], cwd=source, check=True, timeout=MINUTES)
        subprocess.run(["strip", "-o", folder / "linux", source / "linux"], check=True, timeout=60)
        (folder / "linux").rename(target)


@pytest.fixture(scope="module")
def kernel() -> Path:
    target = cache_directory() / "tests" / f"{PACKAGE}-virtiofs"
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            build(target)
    return target


def test_boots_without_an_initramfs(kernel: Path, tool: Path, run_pykrun: Pykrun) -> None:
    found = for_image(kernel)
    assert found.modules is None
    assert initramfs(found, tool) is None
    words = ["run", "--kernel", str(kernel), "--file", f"/tool={tool}:0755", "--", "/tool", "exit", "42"]
    result = run_pykrun(words, timeout=60)
    assert (result.returncode, result.stdout) == (42, b"")
    result = run_pykrun([*words[:-3], "/nothing"], timeout=60)
    assert result.returncode == 127
