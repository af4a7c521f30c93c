"""The same server on the host: a mount through /dev/fuse. Needs root (or CAP_SYS_ADMIN in the mount's namespace).

The kernel hands over one request per read and takes one reply per write. When this process ends, however it ends, the
kernel aborts the connection; what is left of the mount answers ENOTCONN until it is unmounted.
"""

from __future__ import annotations

import os
from errno import EAGAIN, ECONNABORTED, EINTR, ENODEV, ENOENT
from stat import S_IFDIR

from pykrun.fuse import wire
from pykrun.fuse.server import Server

_ROOM = wire.MAX_WRITE + 4096  # what the kernel demands of a read, and the longest reply, with some to spare

_AGAIN = (ENOENT, EINTR)  # the request was taken back meanwhile
_OVER = (ENODEV, ECONNABORTED)  # unmounted, or aborted


class Mount:
    """One mounted file system.

    :param server: what answers.
    :param mountpoint: an existing directory.
    :param read_only: refuse changes in the kernel already.
    :raise OSError: no /dev/fuse, no rights, no such directory.
    """

    def __init__(self, server: Server, mountpoint: str, *, read_only: bool = False) -> None:
        from pykrun.host import linux  # ctypes takes a while to import: nobody who runs a VM needs it

        self.mountpoint = os.path.realpath(mountpoint)
        self._server = server
        self._request = memoryview(bytearray(_ROOM))
        self._reply = memoryview(bytearray(_ROOM))
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        options = (
            f"fd={self._fd},rootmode={S_IFDIR:o},user_id={os.geteuid()},group_id={os.getegid()}"
            ",default_permissions"  # the kernel checks modes, as in a virtio-fs guest
            ",allow_other"
        )
        flags = linux.MS_NOSUID | linux.MS_NODEV | (linux.MS_RDONLY if read_only else 0)
        try:
            linux.mount("pykrun", self.mountpoint, "fuse.pykrun", flags, options)
        except OSError:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """The descriptor of /dev/fuse, non-blocking: readable when there are requests for `serve`."""
        return self._fd

    def serve(self) -> bool:
        """Answer the requests that are there, without waiting for more; return False when the mount is gone."""
        while True:
            try:
                size = os.readv(self._fd, [self._request])
            except OSError as error:
                if error.errno in _AGAIN:
                    continue
                if error.errno == EAGAIN:
                    return True
                if error.errno in _OVER:
                    return False
                raise
            length = self._server.handle([self._request[:size]], [self._reply])
            if length:
                try:
                    os.write(self._fd, self._reply[:length])
                except OSError as error:
                    if error.errno in _OVER:
                        return False
                    if error.errno not in _AGAIN:
                        raise

    def run(self) -> None:
        """Answer until the mount is gone."""
        import select

        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while self.serve():
            poll.poll()

    def close(self) -> None:
        """Unmount, lazily where somebody still uses it, and end the session."""
        if self._fd < 0:
            return
        from pykrun.host import linux

        # The descriptor goes first: whoever waits for an answer is let go with ECONNABORTED.
        os.close(self._fd)
        self._fd = -1
        try:
            linux.unmount(self.mountpoint, linux.MNT_DETACH)
        except OSError:
            pass  # somebody unmounted it already
        self._server.reset()
