"""The same server on the host: mounts through /dev/fuse.

The kernel hands over one request per read and takes one reply per write. When the last copy of the descriptor is
closed, however that comes about, the kernel aborts the connection; what is left of the mount answers ENOTCONN until it
is unmounted.

One loop reads all requests. More threads that read lose: the interpreter lock changes hands with each request, which
costs a third to a half more CPU and gains no rate, neither for one client nor for four (`stat`, open-read-close, 1 MiB
reads). What may take long and does not change the session goes to a thread of its own instead (`SlowLane`). Blocking
reads instead of an event loop save nothing that can be measured.
"""

from __future__ import annotations

import os
from errno import ECONNABORTED, EINTR, ENODEV, ENOENT
from io import FileIO
from stat import S_IFDIR

from pykrun.fs.interface import FLOCK_LOCKS, POSIX_LOCKS
from pykrun.fuse import wire
from pykrun.fuse.lane import SlowLane
from pykrun.fuse.server import Server
from pykrun.fuse.waiting import AGAIN, WaitingLocks

_ROOM = wire.MAX_WRITE + 4096  # what the kernel demands of a read, and the longest reply, with some to spare
_AT_ONCE = 256  # requests; then the loop looks at everybody else

_AGAIN = (ENOENT, EINTR)  # the request was taken back meanwhile
_OVER = (ENODEV, ECONNABORTED)  # unmounted, or aborted


def open_mount(mountpoint: str, *, flags: int = 0, source: str = "pykrun", options: str = "") -> int:
    """Mount at an existing directory, with rights of our own (root, or CAP_SYS_ADMIN in the mount's namespace).

    :param flags: MS_... of mount(2).
    :param options: FUSE's own, joined by commas.
    :return: the descriptor of /dev/fuse that the requests come from.
    :raise OSError: no /dev/fuse, no rights, no such directory.
    """
    from pykrun.host import linux  # ctypes takes a while to import: nobody who runs a VM needs it

    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        given = f"fd={descriptor},rootmode={S_IFDIR:o},user_id={os.geteuid()},group_id={os.getegid()}"
        linux.mount(source, mountpoint, "fuse.pykrun", flags, f"{given},{options}" if options else given)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Channel:
    """The kernel's requests for one mounted file system, and our replies.

    :param descriptor: of /dev/fuse; becomes ours, and non-blocking.
    """

    def __init__(self, server: Server, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._server = server
        self._fd = descriptor
        self._file = FileIO(descriptor, "rb", closefd=False)  # its readinto says None, where readv raises EAGAIN
        self._request = memoryview(bytearray(_ROOM))
        self._reply = memoryview(bytearray(_ROOM))
        self._rooms = [self._reply[: wire.OUT_HEADER.size], self._reply[wire.OUT_HEADER.size :]]
        self._lane = SlowLane(self._answer)
        locks = server.filesystem.features & (POSIX_LOCKS | FLOCK_LOCKS)
        self._locks = WaitingLocks(server, self._write) if locks else None

    def fileno(self) -> int:
        """The descriptor: readable when there are requests for `serve`."""
        return self._fd

    @property
    def again(self) -> float | None:
        """Seconds after which `serve` is to be called though there is no request: somebody waits for a lock."""
        return AGAIN if self._locks else None

    def serve(self) -> bool:
        """Answer requests that are there, without waiting for more; return False when the mount is gone."""
        there = self._serve()
        if there and self._locks:
            self._locks.retry()
        return there

    def _serve(self) -> bool:
        request, rooms, handle, read = self._request, self._rooms, self._server.handle, self._file.readinto
        for _ in range(_AT_ONCE):
            try:
                size = read(request)
            except OSError as error:
                if error.errno in _AGAIN:
                    continue
                if error.errno in _OVER:
                    return False
                raise
            except ValueError:  # closed by another thread
                return False
            if size is None:
                return True
            # The opcode's first byte, and there are no larger ones.
            if request[4] in wire.APART and size < _SMALL and self._set_apart(bytes(request[:size])):
                continue
            length = handle([request[:size]], rooms)
            if length and not self._write(self._reply[:length]):
                return False
        return True

    def run(self) -> None:
        """Answer until the mount is gone."""
        import select

        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while self.serve():
            poll.poll(self.again and self.again * 1000)

    def close(self) -> None:
        """Close the descriptor: whoever waits for an answer is let go with ECONNABORTED. Harmless when called again."""
        if self._fd >= 0:
            descriptor, self._fd = self._fd, -1
            self._file.close()
            if self._locks is not None:
                self._locks.clear()
            if self._lane.close():
                os.close(descriptor)

    def _set_apart(self, request: bytes) -> bool:
        """Serve a request of `wire.APART`; False: as all others."""
        if request[4] in wire.SLOW:
            self._lane.put(request)
            return True
        if self._locks is None:
            return False
        self._locks.take(request)
        return True

    def _answer(self, request: bytes) -> None:
        """Serve one request in the slow lane's thread."""
        reply = memoryview(bytearray(_SMALL))
        length = self._server.handle([memoryview(request)], [reply])
        if length:
            self._write(reply[:length])

    def _write(self, reply: memoryview) -> bool:
        try:
            os.write(self._fd, reply)
        except OSError as error:
            if error.errno in _OVER:
                return False
            if error.errno not in _AGAIN:
                raise
        return True


_SMALL = 4096
"""Requests of the slow lane, and their replies, are smaller than this."""


class Mount:
    """A mounted file system that this process serves, for programs and tests. Needs root.

    :param server: what answers.
    :param mountpoint: an existing directory.
    :param read_only: refuse changes in the kernel already.
    :raise OSError: no /dev/fuse, no rights, no such directory.
    """

    def __init__(self, server: Server, mountpoint: str, *, read_only: bool = False) -> None:
        from pykrun.host import linux

        self.mountpoint = os.path.realpath(mountpoint)
        self._server = server
        flags = linux.MS_NOSUID | linux.MS_NODEV | (linux.MS_RDONLY if read_only else 0)
        # The kernel checks modes, as in a virtio-fs guest.
        self._channel = Channel(server, open_mount(self.mountpoint, flags=flags, options=OPTIONS))

    def fileno(self) -> int:
        """The descriptor of /dev/fuse, non-blocking: readable when there are requests for `serve`."""
        return self._channel.fileno()

    @property
    def again(self) -> float | None:
        """Seconds after which `serve` is to be called though there is no request; None: not before there is one."""
        return self._channel.again

    def serve(self) -> bool:
        """Answer the requests that are there, without waiting for more; return False when the mount is gone."""
        return self._channel.serve()

    def run(self) -> None:
        """Answer until the mount is gone."""
        self._channel.run()

    def close(self) -> None:
        """Unmount, lazily where somebody still uses it, and end the session."""
        if self._channel.fileno() < 0:
            return
        from pykrun.host import linux

        self._channel.close()  # first, so that nobody waits for an answer
        try:
            linux.unmount(self.mountpoint, linux.MNT_DETACH)
        except OSError:
            pass  # somebody unmounted it already
        self._server.reset()


OPTIONS = "default_permissions,allow_other"
"""What root's mounts have: the kernel checks modes and owners, and everybody may come."""
