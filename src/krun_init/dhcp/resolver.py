"""/etc/resolv.conf (resolv.conf(5)): written where it can be, else put over it by a bind mount."""

from __future__ import annotations

import errno
import posix

from krun_init import _linux, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.dhcp.packet import Reply
    from krun_init.places import Places

_BIND = 0x1000  # uapi/linux/mount.h
_LONGEST_LINE = 255  # of musl's reader, which takes no longer ones
_MODE = 0o644
_TYPE, _REGULAR = 0o170000, 0o100000  # uapi/linux/stat.h, S_IFMT and S_IFREG


def content(reply: Reply) -> bytes:
    """The file's bytes for what the server said; as many search domains as a line may hold."""
    lines = []
    line = "search"
    for domain in reply.search:
        if len(line) + 1 + len(domain) > _LONGEST_LINE:
            break
        line += " " + domain
    if line != "search":
        lines.append(line)
    lines += ["nameserver " + ".".join(map(str, server)) for server in reply.servers]
    return ("\n".join(lines) + "\n").encode()


def write(data: bytes, places: Places) -> None:
    """Make the file say so, if there is to be one.

    :raise OSError: neither way works: it is missing on a read-only root.
    """
    if not places.resolver:
        return
    try:
        try:
            _write(places.resolver, data)
        except FileNotFoundError:
            files.make_directories(_folder_of(places.resolver))
            _write(places.resolver, data)
    except OSError as error:
        try:
            _cover(places.resolver, data, places.devices)
        except OSError:
            raise error from None


def _write(path: str, data: bytes, flags: int = posix.O_TRUNC) -> None:
    # Not to hang at a FIFO, nor to write to whatever else is no file.
    careful = posix.O_NONBLOCK | posix.O_NOCTTY
    fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC | careful | flags, _MODE)
    try:
        if posix.fstat(fd).st_mode & _TYPE != _REGULAR:
            raise OSError(errno.EINVAL, "it is no file")
        posix.write(fd, data)
    finally:
        posix.close(fd)


def _folder_of(path: str) -> str:
    """Where the file is to lie; it may be a link to a place that some service has not made yet."""
    folder = path.rpartition("/")[0]
    try:
        target = posix.readlink(path)
    except OSError:
        return folder
    return (target if target[0] == "/" else f"{folder}/{target}").rpartition("/")[0]


def _cover(path: str, data: bytes, devices: str) -> None:
    """Mount a file of ours over it. It lies where only root can write, and loses its name: the mount keeps it."""
    ours = f"{devices}/.resolv.conf"
    _remove(ours)
    _write(ours, data, posix.O_EXCL)
    try:
        _linux.mount(ours, path, None, _BIND)
    finally:
        _remove(ours)


def _remove(path: str) -> None:
    try:
        posix.unlink(path)
    except FileNotFoundError:
        pass
