"""Which file system the guest is going to find on a disk."""

from __future__ import annotations

import os

from pykrun.disk.partitions import find
from pykrun.disk.qcow2 import Qcow2
from pykrun.disk.reading import Unreadable
from pykrun.disk.superblock import Read, identify
from pykrun.disk.vmdk import Vmdk
from pykrun.errors import UsageError
from pykrun.machine import Disk


def file_system(disk: Disk, partition: int = 0) -> str | None:
    """Return a file system's name, empty for none that is known here, None when the host cannot read that far.

    :param partition: its number as the guest counts; 0 for the whole disk.
    :raise UsageError: there is no such partition.
    """
    read = _reader(disk)
    try:
        start, size = 0, disk.size
        if partition:
            extent = find(read, disk.size, partition)
            if extent is None:
                raise UsageError(f"disk {disk.path!r} has no partition {partition}")
            start, size = extent
        return identify(lambda offset, count: read(start + offset, max(0, min(count, size - offset))))
    except (OSError, Unreadable):
        return None


def _reader(disk: Disk) -> Read:
    if disk.format == "qcow2":
        return Qcow2(disk.descriptor, disk.path).read
    if disk.format == "vmdk":
        return Vmdk(disk.descriptor, disk.path, read_only=disk.read_only).read
    return lambda offset, size: os.pread(disk.descriptor, size, min(offset, disk.size))
