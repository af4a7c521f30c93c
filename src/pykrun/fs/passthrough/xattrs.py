"""Extended attributes, by a path to our own descriptor: the calls take no other of a file that is not open."""

from __future__ import annotations

import os
from collections.abc import Sequence
from errno import ENODATA, ENOSYS, EOPNOTSUPP, EPERM
from stat import S_ISGID

from pykrun.fs.passthrough.core import Core
from pykrun.fs.types import errno_error

_ACLS = b"system.posix_acl_"


class XattrOperations(Core):
    """See `pykrun.fs.interface`.

    Without attributes at all the answer is ENOSYS: the guest's kernel does not ask again, for any file.
    """

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Tell one value."""
        try:
            host_name = self._host_name(name)
        except OSError as error:
            if error.errno == EPERM:
                raise errno_error(ENODATA) from None
            raise
        return os.getxattr(self._xattr_path(ino), host_name)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, kill_sgid: bool) -> None:
        """Set one value; an ACL changes the mode with it."""
        self._changed = True
        path = self._xattr_path(ino)
        os.setxattr(path, self._host_name(name), value, flags)
        if kill_sgid and name.startswith(_ACLS):
            mode = os.stat(path).st_mode
            if mode & S_ISGID:
                os.chmod(path, mode & 0o7777 & ~S_ISGID)

    def listxattr(self, ino: int) -> Sequence[bytes]:
        """Tell the names that the guest can use."""
        if not self.options.xattr:
            raise errno_error(ENOSYS)
        names = [os.fsencode(name) for name in os.listxattr(self._xattr_path(ino))]
        if not self.options.posix_acl:
            names = [name for name in names if not name.startswith(_ACLS)]
        mapping = self.options.xattr_map
        return names if mapping is None else mapping.to_guest(names)

    def removexattr(self, ino: int, name: bytes) -> None:
        """Remove one value."""
        self._changed = True
        os.removexattr(self._xattr_path(ino), self._host_name(name))

    def _host_name(self, name: bytes) -> bytes:
        options = self.options
        if not options.xattr:
            raise errno_error(ENOSYS)
        if name.startswith(_ACLS):
            if not options.posix_acl:
                raise errno_error(EOPNOTSUPP)
            return name  # the kernel gives these a meaning: under another name they would be nothing
        return name if options.xattr_map is None else options.xattr_map.to_host(name)

    def _xattr_path(self, ino: int) -> bytes:
        return self._own.path(self._inodes.reach(self._inodes.get(ino)))
