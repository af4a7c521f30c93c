"""Directories of the host in the guest, and what lies over them."""

from __future__ import annotations

import errno

from pykrun.krun.calls import Buffer, Refusal, Text, buffer, call, failure, number, optional_text, text
from pykrun.krun.context import FileSystemSpec, OverlayEntry, find
from pykrun.krun.disks import add_filesystem

INIT = "init.krun"
NAME_MAX = 255


@call
def krun_add_virtiofs(ctx_id: int, c_tag: Text, c_path: Text) -> int:
    """Add a directory of the host as a virtio-fs device. The guest mounts it by its tag.

    :param c_tag: up to 36 bytes; "/dev/root" is the root.
    :param c_path: NULL for a file system without a directory: what is added to it is all there is.
    :return: 0; -EINVAL: a tag that is NULL, no UTF-8 text; -ENOENT: no such context.
    """
    return _add(ctx_id, c_tag, c_path, 0, read_only=False)


@call
def krun_add_virtiofs2(ctx_id: int, c_tag: Text, c_path: Text, shm_size: int) -> int:
    """Add a directory as `krun_add_virtiofs` does.

    :param shm_size: bytes of the DAX window. Accepted: neither engine has one.
    :return: 0; -EINVAL: see there; -ENOENT: no such context.
    """
    return _add(ctx_id, c_tag, c_path, shm_size, read_only=False)


@call
def krun_add_virtiofs3(ctx_id: int, c_tag: Text, c_path: Text, shm_size: int, read_only: bool) -> int:
    """Add a directory as `krun_add_virtiofs2` does.

    :param read_only: refuse every change.
    :return: 0; -EINVAL: see there; -ENOENT: no such context.
    """
    return _add(ctx_id, c_tag, c_path, shm_size, read_only=bool(read_only))


@call
def krun_fs_add_overlay_file(
    ctx_id: int, fs_tag: Text, path: Text, data: Buffer, data_len: int, mode: int, one_shot: bool
) -> int:
    """Lay a virtual file over a file system.

    :param path: with or without a leading slash; its directories were added by `krun_fs_add_overlay_dir`.
    :param data: the content. It is not copied: the memory has to stay as it is until the VM ends.
    :param mode: permission bits; others are ignored.
    :param one_shot: the file can be looked up once, and is never listed.
    :return: 0; -EINVAL: NULL (data may be when the length is 0), no UTF-8 text, an empty or special component;
        -ENOENT: no such context, tag or directory; -ENOTDIR: a file lies where a directory is needed; -EEXIST: there
        is such an entry.
    """
    tag, name = text("fs_tag", fs_tag), text("path", path)
    content = buffer("data", data, data_len)
    bits = number("mode", mode)
    return _overlay(ctx_id, tag, name, OverlayEntry(mode=bits & 0o7777, data=content, one_shot=bool(one_shot)))


@call
def krun_fs_add_overlay_dir(ctx_id: int, fs_tag: Text, path: Text, mode: int) -> int:
    """Lay a virtual, read-only directory over a file system: a mount point, or a place for further entries.

    :return: 0; errors as for `krun_fs_add_overlay_file`.
    """
    tag, name = text("fs_tag", fs_tag), text("path", path)
    bits = number("mode", mode)
    return _overlay(ctx_id, tag, name, OverlayEntry(mode=bits & 0o7777))


@call
def krun_disable_implicit_init(ctx_id: int) -> int:
    """Leave the init out of a root that is added from now on.

    The root then has to have an init.krun of its own, or the caller's kernel command line an init= of its own.

    :return: 0; -ENOENT: no such context.
    """
    find(ctx_id).implicit_init = False
    return 0


def krun_get_default_init() -> tuple[int, memoryview]:
    """Return the init: what lies as /init.krun in a root, a static program for this machine.

    In C the two results come through pointers. The memory stays valid for the life of the process.

    :return: 0 and its bytes; -ENOTSUP and nothing: it was not built and cannot be.
    """
    try:
        return 0, _default_init()
    except Exception as error:
        return failure("krun_get_default_init", error), memoryview(b"")


_init: memoryview | None = None


def _default_init() -> memoryview:
    global _init
    if _init is None:
        from pykrun import blob
        from pykrun.errors import PykrunError

        try:
            with open(blob.find().path, "rb") as stream:
                _init = memoryview(stream.read())
        except (PykrunError, OSError) as error:
            raise Refusal(errno.ENOTSUP, f"there is no init: {error}") from None
    return _init


def _add(ctx_id: int, c_tag: Text, c_path: Text, shm_size: int, *, read_only: bool) -> int:
    tag, path = text("c_tag", c_tag), optional_text("c_path", c_path)
    number("shm_size", shm_size, 64)
    add_filesystem(find(ctx_id), tag, path, read_only=read_only)
    return 0


def _overlay(ctx_id: int, tag: str, path: str, entry: OverlayEntry) -> int:
    found = find(ctx_id).find_filesystem(tag)
    if found is None:
        raise Refusal(errno.ENOENT, f"there is no file system {tag!r}")
    names = path.removeprefix("/").split("/")
    for name in names:
        if name in ("", ".", "..") or len(name.encode()) > NAME_MAX:
            raise Refusal(errno.EINVAL, f"{path!r} has an empty, special or too long component")
    for depth in range(1, len(names)):
        _require_directory(found, "/".join(names[:depth]))
    place = "/".join(names)
    if place in found.entries or (found.init and place == INIT):
        raise Refusal(errno.EEXIST, f"{path!r} is in {tag!r} already")
    found.entries[place] = entry
    return 0


def _require_directory(filesystem: FileSystemSpec, path: str) -> None:
    entry = filesystem.entries.get(path)
    if (entry is not None and entry.data is not None) or (entry is None and filesystem.init and path == INIT):
        raise Refusal(errno.ENOTDIR, f"{path!r} is a file")
    if entry is None:
        raise Refusal(errno.ENOENT, f"{path!r} was not added")
