"""Images by the tools that everybody uses; a tool that is missing skips the test with the package's name."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = {
    "mke2fs": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "sfdisk": "fdisk",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
}
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
MIB = 1 << 20


def program(name: str) -> str:
    """The path of a tool."""
    found = shutil.which(name, path=SEARCH)
    if found is None:
        pytest.skip(f"no {name} on PATH (apt-get install {PACKAGES[name]})")
    return found


def tool(name: str, *words: str | Path, text: str | None = None) -> str:
    """Run a tool; return what it printed."""
    command = [program(name), *map(str, words)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=120).stdout


def sparse(path: Path, size: int) -> Path:
    """A file of zeros."""
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def file_system(path: Path, kind: str) -> Path:
    """An image that is one file system."""
    if kind == "xfs":
        tool("mkfs.xfs", "-q", sparse(path, 320 * MIB))
    elif kind == "btrfs":
        tool("mkfs.btrfs", "-q", sparse(path, 128 * MIB))
    else:
        tool("mke2fs", "-q", "-F", "-t", kind, sparse(path, 8 * MIB))
    return path


def partitioned(path: Path, size: int, table: str) -> Path:
    """A disk with the partition table of an sfdisk script."""
    tool("sfdisk", "-q", sparse(path, size), text=table)
    return path
