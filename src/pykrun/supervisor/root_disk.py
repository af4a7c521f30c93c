"""Which file systems the guest's kernel needs for a root on a disk."""

from __future__ import annotations

from pykrun.disk import file_system
from pykrun.errors import UsageError
from pykrun.machine import Disk, disk_name, disk_place
from pykrun.start_data import StartData

LIKELY = ("ext4", "xfs", "btrfs")
"""What is loaded when the host cannot look into the image."""


def file_systems(disks: tuple[Disk, ...], start: StartData) -> tuple[str, ...]:
    """Return the names of the file systems to load for the root: the wanted one, or what the host sees there.

    Whether they fit is for the guest to say.

    :raise UsageError: there is no such disk or partition.
    """
    device = start.root_device
    place = None if device is None else disk_place(device)
    if place is None:
        return ()
    index, partition = place
    if index >= len(disks):
        names = ", ".join(map(disk_name, range(len(disks)))) or "none; add a --disk"
        raise UsageError(f"there is no {device} to boot into", f"the machine's disks: {names}")
    found = file_system(disks[index], partition)
    if start.root_fstype:
        return (start.root_fstype,)
    return LIKELY if found is None else (found,) if found else ()
