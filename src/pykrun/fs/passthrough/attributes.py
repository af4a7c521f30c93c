"""Attributes: changing them, asking about rights, and where links point."""

from __future__ import annotations

import os
from errno import EACCES, EINVAL, ESTALE
from os import O_WRONLY
from stat import S_IFDIR, S_IFLNK, S_IFREG, S_ISGID, S_ISUID
from typing import Any

from pykrun.fs.passthrough.core import Core
from pykrun.fs.passthrough.inodes import Inode
from pykrun.fs.rights import denied
from pykrun.fs.types import Attributes, Caller, Changes, errno_error
from pykrun.host import files


class AttributeOperations(Core):
    """See `pykrun.fs.interface`."""

    def setattr(self, ino: int, handle: Any, changes: Changes, caller: Caller) -> Attributes:
        """Change mode, owner, size and times, in this order, each by a descriptor of the file itself."""
        self._changed = True
        inode = self._inodes.get(ino)
        fd = handle.fd if handle is not None else self._inodes.reach(inode)
        if changes.is_empty:
            self._change_nothing(inode, fd, caller)
        if changes.mode is not None:
            self._change_mode(fd, handle is not None, changes.mode)
        if changes.uid is not None or changes.gid is not None:
            # The kernel clears set-ID bits and capabilities of a program, whoever changes its owner.
            files.change_owner(
                fd, -1 if changes.uid is None else changes.uid, -1 if changes.gid is None else changes.gid
            )
        if changes.size is not None:
            with self._killing(changes.kill_privileges):
                self._truncate(inode, handle, fd, changes.size)
            fd = handle.fd if handle is not None else self._inodes.reach(inode)
        self._change_times(fd, changes)
        return self.getattr(ino, handle)

    def _change_nothing(self, inode: Inode, fd: int, caller: Caller) -> None:
        """Do as chown(2) with two times -1: set-ID bits and capabilities go, and the time of change moves.

        Linux says so by a request that asks for nothing. It says the same before somebody writes to what has such
        bits, and sends the write whatever the answer: only root and the owner take them away here.
        """
        status = os.fstat(fd)
        if inode.kind != S_IFDIR and status.st_mode & (S_ISUID | S_ISGID) and caller.uid not in (0, status.st_uid):
            return
        files.change_owner(fd, -1, -1)

    def _change_mode(self, fd: int, is_open: bool, mode: int) -> None:
        if is_open:
            os.fchmod(fd, mode)
        else:
            os.chmod(self._own.name(fd), mode, dir_fd=self._own.root)

    def _truncate(self, inode: Inode, handle: Any, fd: int, size: int) -> None:
        if handle is not None:
            os.ftruncate(fd, size)
            return
        if inode.kind != S_IFREG:
            raise errno_error(EINVAL)
        fd = self._reopen(inode, O_WRONLY)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def _change_times(self, fd: int, changes: Changes) -> None:
        atime = files.NOW if changes.atime_now else changes.atime_ns
        mtime = files.NOW if changes.mtime_now else changes.mtime_ns
        if atime is not None or mtime is not None:
            files.change_times(self._own.root, self._own.name(fd), atime, mtime)

    def access(self, ino: int, mask: int, caller: Caller) -> None:
        """Check the mode bits. Linux checks by itself, and never asks."""
        if denied(self.getattr(ino, None), mask, caller):
            raise errno_error(EACCES)

    def readlink(self, ino: int) -> bytes:
        """Tell where a link points; by its hint where that spares a descriptor."""
        inode = self._inodes.get(ino)
        if inode.kind != S_IFLNK:
            raise errno_error(EINVAL)
        parent = inode.parent
        if inode.fd < 0 and parent is not None:
            target = _target(self._inodes.reach(parent), inode.name)
            fields = self._statx.at(self._inodes.reach(parent), inode.name)
            if target is not None and fields is not None and self._inodes.is_same(inode, fields):
                return target
        target = _target(self._inodes.reach(inode), b"")
        if target is None:
            raise errno_error(ESTALE)
        return target


def _target(directory: int, name: bytes) -> bytes | None:
    """Read a link; None when it is none, or gone."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None
