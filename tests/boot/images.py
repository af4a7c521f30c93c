"""Disk images for guests: file systems made by the tools that everybody uses, with partition tables and without."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

APPLETS = ("sh", "cat", "sync", "grep", "head", "ls", "sleep", "mkdir", "rm", "dd", "od", "mount", "df")
SECTOR = 512
_START = 2048
"""Sector at which the first partition begins, where all tools put it."""


def tree(folder: Path, busybox: Path) -> Path:
    """What is on the disk: a shell, a marker, and none of the kernel's folders."""
    (folder / "bin").mkdir(parents=True)
    shutil.copy(busybox, folder / "bin/busybox")
    for name in APPLETS:
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "marker").write_text("from the disk\n")
    return folder


def make(target: Path, kind: str, content: Path, *, mebibytes: int = 0) -> Path:
    """An image with a file system of that kind that holds the folder's content."""
    # The least that xfs and btrfs accept is much.
    size = (mebibytes or {"xfs": 320, "btrfs": 128}.get(kind, 24)) << 20
    with open(target, "wb") as stream:
        stream.truncate(size)
    if kind == "xfs":
        prototype = target.with_suffix(".proto")
        prototype.write_text(_prototype(content))
        command = ["mkfs.xfs", "-q", "-p", str(prototype), str(target)]
    elif kind == "btrfs":
        command = ["mkfs.btrfs", "-q", "--rootdir", str(content), str(target)]
    else:
        command = ["mke2fs", "-q", "-F", "-t", kind, "-d", str(content), str(target)]
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
    return target


def partitioned(target: Path, image: Path, label: str) -> Path:
    """A disk with an empty first partition and the image as its second."""
    sectors = image.stat().st_size // SECTOR
    with open(target, "wb") as stream:
        stream.truncate((2 * _START + sectors + _START) * SECTOR)
    table = f"label: {label}\nstart={_START}, size={_START}\nstart={2 * _START}, size={sectors}\n"
    subprocess.run(
        ["sfdisk", "-q", str(target)], input=table, text=True, check=True, timeout=60, stdout=subprocess.DEVNULL
    )
    place = ["dd", f"if={image}", f"of={target}", "bs=1M", f"seek={2 * _START * SECTOR >> 20}", "conv=notrunc,sparse"]
    subprocess.run(place, check=True, timeout=60, stderr=subprocess.DEVNULL)
    return target


def content_of(image: Path, path: str) -> bytes:
    """A file's bytes, read from an ext4 image on the host."""
    command = ["debugfs", "-R", f"cat {path}", str(image)]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def _prototype(content: Path) -> str:
    """mkfs.xfs takes a list of files rather than a folder (xfs's proto(5))."""
    lines = ["/", "0 0", "d--755 0 0"]

    def add(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if path.is_symlink():
                lines.append(f"{path.name} l--777 0 0 {path.readlink()}")
            elif path.is_dir():
                lines.append(f"{path.name} d--755 0 0")
                add(path)
            else:
                lines.append(f"{path.name} ---{path.stat().st_mode & 0o777:o} 0 0 {path}")
        lines.append("$")

    add(content)
    return "\n".join(lines) + "\n"
