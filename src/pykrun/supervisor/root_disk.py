"""A root on a disk: what the guest's kernel needs for it, and what of the virtual root goes on to be seen in it."""

from __future__ import annotations

from pykrun.disk import file_system
from pykrun.errors import UsageError
from pykrun.machine import Disk, disk_name, disk_place
from pykrun.record import replace
from pykrun.root import INIT_PATH, Root
from pykrun.start_data import StartData

MOUNT_POINT = "/newroot"
"""Where init mounts the disk before it becomes the root; the virtual root has to have it."""

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
        names = ", ".join(map(disk_name, range(len(disks))))
        hint = f"the machine's disks: {names}" if names else "give the machine a disk with --disk"
        raise UsageError(f"there is no {device} to boot into", hint)
    found = file_system(disks[index], partition)
    if start.root_fstype:
        return (start.root_fstype,)
    return LIKELY if found is None else (found,) if found else ()


def carry_over(root: Root, start: StartData, disks: tuple[Disk, ...]) -> StartData:
    """Ask init to show the virtual root's files in the disk's too, and make a mount point for the disk.

    A disk that cannot be written is mounted read-only without a word: it was asked for.
    """
    if start.root_device is None:
        return start
    place = disk_place(start.root_device)
    options = start.root_options
    if place is not None and disks[place[0]].read_only:
        options = f"ro,{options}" if options else "ro"
    files = tuple(path for path in root.files if path != INIT_PATH)
    directories = tuple(root.directories)
    root.directory(MOUNT_POINT)
    return replace(start, root_files=files, root_directories=directories, root_options=options)
