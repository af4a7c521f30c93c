"""The root directory, the disks, and a disk as the root."""

from __future__ import annotations

import errno

from pykrun.krun.calls import Refusal, Text, Texts, call, number, optional_text, text
from pykrun.krun.context import BlockRoot, Context, DiskSpec, FileSystemSpec, OverlayEntry, find
from pykrun.krun.messages import WARNING, tell
from pykrun.machine import ROOT_TAG

FORMATS = ("raw", "qcow2", "vmdk")
SYNC_NONE, SYNC_RELAXED, SYNC_FULL = range(3)
MOUNT_POINTS = ("dev", "proc", "sys", "newroot")


@call
def krun_set_root(ctx_id: int, root_path: Text) -> int:
    """Make a directory of the host the guest's root. It is opened when the VM starts.

    Unless `krun_disable_implicit_init` came before, the init lies in it as /init.krun.

    :return: 0; -EINVAL: NULL or no UTF-8 text; -ENOENT: no such context.
    """
    path = text("root_path", root_path)
    add_filesystem(find(ctx_id), ROOT_TAG, path)
    return 0


@call
def krun_set_root_disk(ctx_id: int, disk_path: Text) -> int:
    """Add a raw image as the first disk (deprecated: `krun_add_disk`). Called again, it replaces the image.

    It counts only if none of the `krun_add_disk` functions is used.

    :return: 0; -EINVAL: NULL or no UTF-8 text; -ENOENT: no such context.
    """
    path = text("disk_path", disk_path)
    find(ctx_id).root_disk = DiskSpec(id="root", path=path)
    return 0


@call
def krun_set_data_disk(ctx_id: int, disk_path: Text) -> int:
    """Add a raw image as the disk after that of `krun_set_root_disk` (deprecated: `krun_add_disk`).

    :return: 0; -EINVAL: NULL or no UTF-8 text; -ENOENT: no such context.
    """
    path = text("disk_path", disk_path)
    find(ctx_id).data_disk = DiskSpec(id="data", path=path)
    return 0


@call
def krun_add_disk(ctx_id: int, block_id: Text, disk_path: Text, read_only: bool) -> int:
    """Add a raw image as the next disk: /dev/vda, vdb, ... in the order of the calls.

    :param block_id: what the guest finds as the disk's serial number, its first 20 bytes.
    :return: 0; -EINVAL: NULL or no UTF-8 text; -ENOENT: no such context.
    """
    return _add_disk(ctx_id, block_id, disk_path, 0, read_only, direct_io=False, sync_mode=SYNC_FULL)


@call
def krun_add_disk2(ctx_id: int, block_id: Text, disk_path: Text, disk_format: int, read_only: bool) -> int:
    """Add an image of the given format as the next disk. Formats are never probed.

    :param disk_format: 0 raw, 1 qcow2, 2 vmdk. The last two must stand for themselves, in one file, which
        `krun_start_enter` looks at; a streamOptimized vmdk must be read-only.
    :return: 0; -EINVAL: NULL, no UTF-8 text, another format; -ENOENT: no such context.
    """
    return _add_disk(ctx_id, block_id, disk_path, disk_format, read_only, direct_io=False, sync_mode=SYNC_FULL)


@call
def krun_add_disk3(
    ctx_id: int,
    block_id: Text,
    disk_path: Text,
    disk_format: int,
    read_only: bool,
    direct_io: bool,
    sync_mode: int,
) -> int:
    """Add an image as the next disk, and say how it is written.

    :param direct_io: go past the host's page cache. Accepted, and without effect.
    :param sync_mode: what a flush of the guest does: 0 nothing, 1 and 2 fdatasync. Accepted; 0 flushes all the same.
    :return: 0; -EINVAL: NULL, no UTF-8 text, another format or mode; -ENOENT: no such context.
    """
    return _add_disk(ctx_id, block_id, disk_path, disk_format, read_only, direct_io=direct_io, sync_mode=sync_mode)


@call
def krun_set_root_disk_remount(ctx_id: int, device: Text, fstype: Text, options: Text) -> int:
    """Make a file system on a disk the guest's root: a virtual root with the init mounts it and changes to it.

    :param device: the guest's name of the disk or partition, /dev/vda1.
    :param fstype: its type; "auto" or NULL lets the guest find out.
    :param options: mount options, separated by commas, or NULL.
    :return: 0; -EINVAL: NULL, no UTF-8 text, there is a root file system or no disk of `krun_add_disk`; -ENOENT: no
        such context.
    """
    name, kind = text("device", device), optional_text("fstype", fstype)
    words = optional_text("options", options)
    context = find(ctx_id)
    if context.root is not None:
        raise Refusal(errno.EINVAL, "there is a root file system already")
    if not context.disks:
        raise Refusal(errno.EINVAL, "no disk was added")
    root = add_filesystem(context, ROOT_TAG, None)
    root.entries.update((point, OverlayEntry(mode=0o755)) for point in MOUNT_POINTS)
    context.block_root = BlockRoot(device=name, fstype=None if kind == "auto" else kind, options=words)
    return 0


@call
def krun_set_mapped_volumes(ctx_id: int, mapped_volumes: Texts) -> int:
    """Do nothing: libkrun no longer has it either (`krun_add_virtiofs`).

    :return: always -EINVAL, whatever the context, as libkrun's.
    """
    raise Refusal(errno.EINVAL, "mapped volumes are no longer there: use krun_add_virtiofs")


def add_filesystem(context: Context, tag: str, path: str | None, *, read_only: bool = False) -> FileSystemSpec:
    """Add a virtio-fs device; a root gets the implicit init."""
    if context.find_filesystem(tag) is not None:
        tell(WARNING, "there is a file system %r already: the guest will use the first one", tag)
    init = tag == ROOT_TAG and context.implicit_init
    added = FileSystemSpec(tag=tag, path=path, read_only=read_only, init=init)
    context.filesystems.append(added)
    return added


def _add_disk(
    ctx_id: int, block_id: Text, disk_path: Text, disk_format: int, read_only: bool, *, direct_io: bool, sync_mode: int
) -> int:
    path, name = text("disk_path", disk_path), text("block_id", block_id)
    if number("disk_format", disk_format) >= len(FORMATS):
        raise Refusal(errno.EINVAL, f"there is no disk format {disk_format}")
    if number("sync_mode", sync_mode) > SYNC_FULL:
        raise Refusal(errno.EINVAL, f"there is no sync mode {sync_mode}")
    disk = DiskSpec(
        id=name,
        path=path,
        format=FORMATS[disk_format],
        read_only=bool(read_only),
        direct_io=bool(direct_io),
        sync=sync_mode,
    )
    find(ctx_id).disks.append(disk)
    return 0
