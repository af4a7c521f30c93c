"""One small function per operation: decoded fields in, body of the reply out.

The functions' parameters after `request` are the members of the operation's row in `wire.OPERATIONS`: the structure's,
then the names, then the tail. LOOKUP, GETATTR, OPEN, READ, RELEASE and FORGET are in `server`, for speed, and so is a
WRITE without extensions.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import E2BIG, EFBIG, EINVAL, ENOSYS, EOPNOTSUPP, ERANGE
from stat import S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK
from typing import Any, Never

from pykrun.fs.interface import STATELESS_DIRECTORIES
from pykrun.fs.types import CACHE_DIR, KEEP_CACHE, Changes, DirectoryEntry, Entry, Lock, Opened, errno_error
from pykrun.fuse import encode, wire
from pykrun.fuse.request import Request
from pykrun.fuse.session import Session


def _offset(value: int) -> int:
    if value > wire.OFFSET_MAX:
        raise errno_error(EINVAL)
    return value


def _range(offset: int, length: int) -> None:
    """Check that a range of a file ends within what an off_t can say.

    :raise OSError: EFBIG.
    """
    if offset > wire.OFFSET_MAX or length > wire.OFFSET_MAX - offset:
        raise errno_error(EFBIG)


# Attributes


def setattr_(
    session: Session,
    request: Request,
    valid: int,
    number: int,
    size: int,
    owner: int,
    atime: int,
    mtime: int,
    ctime: int,
    atime_ns: int,
    mtime_ns: int,
    ctime_ns: int,
    mode: int,
    uid: int,
    gid: int,
) -> bytes:
    """SETATTR."""
    handle = session.file(request.ino, number) if valid & wire.FATTR_FH else None
    if valid & wire.FATTR_SIZE:
        _range(size, 0)
    changes = Changes(
        mode=mode & 0o7777 if valid & wire.FATTR_MODE else None,
        uid=uid if valid & wire.FATTR_UID else None,
        gid=gid if valid & wire.FATTR_GID else None,
        size=size if valid & wire.FATTR_SIZE else None,
        atime_ns=_time(atime, atime_ns) if valid & wire.FATTR_ATIME else None,
        mtime_ns=_time(mtime, mtime_ns) if valid & wire.FATTR_MTIME else None,
        ctime_ns=_time(ctime, ctime_ns) if valid & wire.FATTR_CTIME else None,
        atime_now=bool(valid & wire.FATTR_ATIME_NOW),
        mtime_now=bool(valid & wire.FATTR_MTIME_NOW),
        kill_privileges=bool(valid & wire.FATTR_KILL_SUIDGID),
        lock_owner=owner if valid & wire.FATTR_LOCKOWNER else None,
    )
    return encode.attr_out(session.filesystem.setattr(request.ino, handle, changes, request.caller()))


def _time(seconds: int, nanoseconds: int) -> int:
    if nanoseconds >= encode.SECOND:
        raise errno_error(EINVAL)
    signed = seconds - (1 << 64) if seconds >> 63 else seconds
    return signed * encode.SECOND + nanoseconds


def statx(session: Session, request: Request, valid: int, number: int, flags: int, mask: int) -> bytes:
    """STATX."""
    handle = session.file(request.ino, number) if valid & wire.GETATTR_FH else None
    return encode.statx_out(session.filesystem.statx(request.ino, handle, flags, mask))


def access(session: Session, request: Request, mask: int) -> bytes:
    """ACCESS."""
    if mask & ~7:
        raise errno_error(EINVAL)
    session.filesystem.access(request.ino, mask, request.caller())
    return b""


def readlink(session: Session, request: Request) -> bytes:
    """READLINK."""
    return session.filesystem.readlink(request.ino)


# Names


def _told(session: Session, entry: Entry) -> bytes:
    session.adopt(entry)
    return encode.entry_out(entry)


def _umask(session: Session, umask: int) -> int:
    return umask & 0o777 if session.flags & wire.DONT_MASK else 0  # else the guest applied it already


def symlink(session: Session, request: Request, name: bytes, target: bytes) -> bytes:
    """SYMLINK."""
    return _told(session, session.filesystem.symlink(request.ino, name, target, request.caller()))


_NODES = (S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK)


def mknod(session: Session, request: Request, mode: int, rdev: int, umask: int, name: bytes) -> bytes:
    """MKNOD."""
    if mode >> 16 or S_IFMT(mode) not in _NODES:
        raise errno_error(EINVAL)
    umask = _umask(session, umask)
    return _told(session, session.filesystem.mknod(request.ino, name, mode, rdev, umask, request.caller()))


def mkdir(session: Session, request: Request, mode: int, umask: int, name: bytes) -> bytes:
    """MKDIR."""
    umask = _umask(session, umask)
    return _told(session, session.filesystem.mkdir(request.ino, name, mode & 0o7777, umask, request.caller()))


def unlink(session: Session, request: Request, name: bytes) -> bytes:
    """UNLINK."""
    session.filesystem.unlink(request.ino, name)
    return b""


def rmdir(session: Session, request: Request, name: bytes) -> bytes:
    """RMDIR."""
    session.filesystem.rmdir(request.ino, name)
    return b""


def rename(session: Session, request: Request, new_parent: int, name: bytes, new_name: bytes) -> bytes:
    """RENAME."""
    return rename2(session, request, new_parent, 0, name, new_name)


_RENAMES = {
    0,
    wire.RENAME_NOREPLACE,
    wire.RENAME_EXCHANGE,
    wire.RENAME_WHITEOUT,
    wire.RENAME_NOREPLACE | wire.RENAME_WHITEOUT,
}


def rename2(session: Session, request: Request, new_parent: int, flags: int, name: bytes, new_name: bytes) -> bytes:
    """RENAME2."""
    if flags not in _RENAMES:
        raise errno_error(EINVAL)
    session.require(new_parent)
    session.filesystem.rename(request.ino, name, new_parent, new_name, flags)
    return b""


def link(session: Session, request: Request, ino: int, new_name: bytes) -> bytes:
    """LINK: the header names the directory."""
    session.require(ino)
    return _told(session, session.filesystem.link(ino, request.ino, new_name))


# Files


def _opened(session: Session, made: tuple[Entry, Opened]) -> bytes:
    entry, opened = made
    try:
        told = _told(session, entry)
    except OSError:
        session.filesystem.release(entry.ino, opened.handle, None)
        raise
    number = session.add(session.files, entry.ino, opened.handle)
    return told + wire.OPEN_OUT.pack(number, opened.flags, 0)


def create(
    session: Session, request: Request, flags: int, mode: int, umask: int, open_flags: int, name: bytes
) -> bytes:
    """CREATE."""
    session.require_room(session.files)
    umask = _umask(session, umask)
    return _opened(session, session.filesystem.create(request.ino, name, flags, mode & 0o7777, umask, request.caller()))


def tmpfile(session: Session, request: Request, flags: int, mode: int, umask: int, open_flags: int) -> bytes:
    """TMPFILE."""
    session.require_room(session.files)
    umask = _umask(session, umask)
    return _opened(session, session.filesystem.tmpfile(request.ino, flags, mode & 0o7777, umask, request.caller()))


def write(
    session: Session, request: Request, number: int, offset: int, size: int, write_flags: int, owner: int, flags: int
) -> bytes:
    """WRITE."""
    handle = session.file(request.ino, number)
    if size > wire.MAX_WRITE or size != sum(map(len, request.payload)):
        raise errno_error(EINVAL)
    _range(offset, size)
    kill = bool(write_flags & wire.WRITE_KILL_SUIDGID)
    return wire.WRITE_OUT.pack(session.filesystem.write(request.ino, handle, offset, request.payload, flags, kill))


def flush(session: Session, request: Request, number: int, owner: int) -> bytes:
    """FLUSH."""
    session.filesystem.flush(request.ino, session.file(request.ino, number), owner)
    return b""


def fsync(session: Session, request: Request, number: int, flags: int) -> bytes:
    """FSYNC."""
    handle = session.file(request.ino, number)
    session.filesystem.fsync(request.ino, handle, bool(flags & wire.FSYNC_FDATASYNC))
    return b""


def fallocate(session: Session, request: Request, number: int, offset: int, length: int, mode: int) -> bytes:
    """FALLOCATE."""
    handle = session.file(request.ino, number)
    if not length:
        raise errno_error(EINVAL)
    _range(offset, length)
    session.filesystem.fallocate(request.ino, handle, offset, length, mode)
    return b""


def lseek(session: Session, request: Request, number: int, offset: int, whence: int) -> bytes:
    """LSEEK."""
    handle = session.file(request.ino, number)
    return wire.LSEEK_OUT.pack(session.filesystem.lseek(request.ino, handle, _offset(offset), whence))


_COPY_MAX = 0xFFFF_F000  # the reply has 32 bits for the count


def copy_file_range(session: Session, request: Request, *fields: int) -> bytes:
    """COPY_FILE_RANGE."""
    return wire.WRITE_OUT.pack(_copy(session, request, _COPY_MAX, *fields))


def copy_file_range_64(session: Session, request: Request, *fields: int) -> bytes:
    """COPY_FILE_RANGE_64."""
    return wire.COPY_OUT_64.pack(_copy(session, request, wire.OFFSET_MAX, *fields))


def _copy(
    session: Session,
    request: Request,
    limit: int,
    number: int,
    offset: int,
    ino_out: int,
    number_out: int,
    offset_out: int,
    length: int,
    flags: int,
) -> int:
    handle = session.file(request.ino, number)
    handle_out = session.file(ino_out, number_out)
    length = min(length, limit)
    _range(offset, 0)
    _range(offset_out, 0)
    length = min(length, wire.OFFSET_MAX - offset, wire.OFFSET_MAX - offset_out)
    return session.filesystem.copy_file_range(
        request.ino, handle, offset, ino_out, handle_out, offset_out, length, flags
    )


# Directories


def opendir(session: Session, request: Request, flags: int, open_flags: int) -> bytes:
    """OPENDIR."""
    filesystem = session.filesystem
    if filesystem.features & STATELESS_DIRECTORIES:
        if session.flags & wire.NO_OPENDIR_SUPPORT:
            session.stateless_directories = True
            raise errno_error(ENOSYS)  # and the guest never asks again
        opened = Opened(None, KEEP_CACHE | CACHE_DIR)
    else:
        session.require_room(session.directories)
        opened = _no_enosys(filesystem.opendir, request.ino, flags)
    session.require_room(session.directories)
    return wire.OPEN_OUT.pack(session.add(session.directories, request.ino, opened.handle), opened.flags, 0)


def _no_enosys(operation: Callable[..., Opened], *arguments: Any) -> Opened:
    """Open. An ENOSYS would say that nothing need be opened, in this whole file system: EOPNOTSUPP instead."""
    try:
        return operation(*arguments)
    except OSError as error:
        if error.errno == ENOSYS:
            raise errno_error(EOPNOTSUPP) from None
        raise


def readdir(
    session: Session, request: Request, number: int, offset: int, size: int, read_flags: int, owner: int, flags: int
) -> bytes:
    """READDIR."""
    handle = session.directory(request.ino, number)
    if size > request.room:
        raise errno_error(EINVAL)
    packed = session.filesystem.list_packed(request.ino, handle, _offset(offset), size)
    if packed is not None:
        return packed

    def pack(item: DirectoryEntry) -> bytes:
        return encode.dirent(item)

    return _listing(session.filesystem.readdir(request.ino, handle, _offset(offset)), size, pack, _nothing)


_DIRENTPLUS_MIN = wire.ENTRY_OUT.size + wire.DIRENT.size + 8  # with a name of up to 8 bytes


def readdirplus(
    session: Session, request: Request, number: int, offset: int, size: int, read_flags: int, owner: int, flags: int
) -> bytes:
    """READDIRPLUS."""
    handle = session.directory(request.ino, number)
    if size > request.room:
        raise errno_error(EINVAL)
    if session.has_room(size // _DIRENTPLUS_MIN):
        packed = session.filesystem.list_packed_plus(request.ino, handle, _offset(offset), size)
        if packed is not None:
            session.adopt_all(packed[1])
            return packed[0]

    def pack(item: tuple[DirectoryEntry, Entry | None]) -> bytes:
        listed, found = item
        if found is not None:
            try:
                session.adopt(found)
            except OSError:
                found = None  # no room for one more inode: the name alone
        return (encode.NO_ENTRY if found is None else encode.entry_out(found)) + encode.dirent(listed)

    def give_back(item: tuple[DirectoryEntry, Entry | None]) -> None:
        if item[1] is not None:
            session.forget(item[1].ino, 1)

    return _listing(session.filesystem.readdirplus(request.ino, handle, _offset(offset)), size, pack, give_back)


def _nothing(item: object) -> None:
    """A plain listing counts no look-ups."""


def _listing(items: Any, size: int, pack: Callable[[Any], bytes], give_back: Callable[[Any], None]) -> bytes:
    """Pack entries as long as they fit; an error after the first ones ends the listing, and comes up next time.

    :raise OSError: EINVAL when not even one fits.
    """
    packed = bytearray()
    try:
        for item in items:
            record = pack(item)
            if len(packed) + len(record) > size:
                give_back(item)
                if not packed:
                    raise errno_error(EINVAL)
                break
            packed += record
    except OSError:
        if not packed:
            raise
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
    return bytes(packed)


def fsyncdir(session: Session, request: Request, number: int, flags: int) -> bytes:
    """FSYNCDIR."""
    handle = session.directory(request.ino, number)
    session.filesystem.fsyncdir(request.ino, handle, bool(flags & wire.FSYNC_FDATASYNC))
    return b""


def releasedir(session: Session, request: Request, number: int, flags: int, release_flags: int, owner: int) -> bytes:
    """RELEASEDIR."""
    handle = session.directory(request.ino, number)
    if session.directories.pop(number, None) is not None:
        session.filesystem.releasedir(request.ino, handle)
    return b""


# Extended attributes


def _sized(value: bytes, size: int, room: int) -> bytes:
    """Answer GETXATTR and LISTXATTR: the length alone when the guest asks with size 0.

    :raise OSError: ERANGE when the value is longer than `size`, EINVAL when there is no such room.
    """
    if not size:
        return wire.GETXATTR_OUT.pack(len(value))
    if size > room:
        raise errno_error(EINVAL)
    if len(value) > size:
        raise errno_error(ERANGE)
    return value


def getxattr(session: Session, request: Request, size: int, name: bytes) -> bytes:
    """GETXATTR."""
    return _sized(session.filesystem.getxattr(request.ino, name), size, request.room)


def listxattr(session: Session, request: Request, size: int) -> bytes:
    """LISTXATTR."""
    names = session.filesystem.listxattr(request.ino)
    return _sized(b"".join(name + b"\0" for name in names), size, request.room)


def setxattr(session: Session, request: Request, size: int, flags: int, name: bytes, value: bytes) -> bytes:
    """SETXATTR."""
    return extended_setxattr(session, request, size, flags, 0, name, value)


def extended_setxattr(
    session: Session, request: Request, size: int, flags: int, more_flags: int, name: bytes, value: bytes
) -> bytes:
    """SETXATTR, with `SETXATTR_EXT`."""
    if size > wire.XATTR_SIZE_MAX:
        raise errno_error(E2BIG)
    if len(value) != size or flags & ~3:
        raise errno_error(EINVAL)
    kill_sgid = bool(more_flags & wire.SETXATTR_ACL_KILL_SGID)
    session.filesystem.setxattr(request.ino, name, value, flags, kill_sgid)
    return b""


def removexattr(session: Session, request: Request, name: bytes) -> bytes:
    """REMOVEXATTR."""
    session.filesystem.removexattr(request.ino, name)
    return b""


# Locks


def getlk(
    session: Session, request: Request, number: int, owner: int, start: int, end: int, kind: int, pid: int, flags: int
) -> bytes:
    """GETLK."""
    handle = session.file(request.ino, number)
    return encode.lock_out(session.filesystem.getlk(request.ino, handle, owner, _lock(start, end, kind, pid)))


def _lock(start: int, end: int, kind: int, pid: int) -> Lock:
    if kind > 2 or start > end:
        raise errno_error(EINVAL)
    return Lock(_offset(start), _offset(end), kind, pid)


def _setlk(session: Session, request: Request, wait: bool, *fields: int) -> bytes:
    number, owner, start, end, kind, pid, flags = fields
    handle = session.file(request.ino, number)
    lock = _lock(start, end, kind, pid)
    session.filesystem.setlk(request.ino, handle, owner, lock, bool(flags & wire.LK_FLOCK), wait)
    return b""


def setlk(session: Session, request: Request, *fields: int) -> bytes:
    """SETLK."""
    return _setlk(session, request, False, *fields)


def setlkw(session: Session, request: Request, *fields: int) -> bytes:
    """SETLKW."""
    return _setlk(session, request, True, *fields)


# The whole


def statfs(session: Session, request: Request) -> bytes:
    """STATFS."""
    return encode.statfs_out(session.filesystem.statfs(request.ino))


def syncfs(session: Session, request: Request) -> bytes:
    """SYNCFS."""
    session.filesystem.syncfs(request.ino)
    return b""


def ioctl(
    session: Session,
    request: Request,
    number: int,
    flags: int,
    command: int,
    argument: int,
    in_size: int,
    out_size: int,
    data: bytes,
) -> bytes:
    """IOCTL. Without a valid handle it still goes on, for the exit code must always arrive."""
    if in_size > len(data) or out_size > request.room - wire.IOCTL_OUT.size:
        raise errno_error(EINVAL)
    handles = session.directories if flags & wire.IOCTL_DIR else session.files
    owner, handle = handles.get(number, (0, None))
    if owner != request.ino:
        handle = None
    answer = session.filesystem.ioctl(request.ino, handle, command, argument, data[:in_size], out_size)
    return wire.IOCTL_OUT.pack(0, 0, 0, 0) + answer[:out_size]


def poll(session: Session, request: Request, number: int, kernel_handle: int, flags: int, events: int) -> bytes:
    """POLL."""
    handle = session.file(request.ino, number)
    return wire.POLL_OUT.pack(session.filesystem.poll(request.ino, handle, events))


def bmap(session: Session, request: Request, block: int, block_size: int) -> bytes:
    """BMAP."""
    return wire.BMAP_OUT.pack(session.filesystem.bmap(request.ino, block, block_size))


def interrupt(session: Session, request: Request) -> Never:
    """INTERRUPT: no request ever waits here, so the guest need not send these: ENOSYS. (Else see `waiting`.)"""
    raise errno_error(ENOSYS)


Handler = Callable[..., bytes]

HANDLERS: dict[str, Handler] = {
    "SETATTR": setattr_,
    "READLINK": readlink,
    "SYMLINK": symlink,
    "MKNOD": mknod,
    "MKDIR": mkdir,
    "UNLINK": unlink,
    "RMDIR": rmdir,
    "RENAME": rename,
    "LINK": link,
    "WRITE": write,
    "STATFS": statfs,
    "FSYNC": fsync,
    "SETXATTR": setxattr,
    "GETXATTR": getxattr,
    "LISTXATTR": listxattr,
    "REMOVEXATTR": removexattr,
    "FLUSH": flush,
    "OPENDIR": opendir,
    "READDIR": readdir,
    "RELEASEDIR": releasedir,
    "FSYNCDIR": fsyncdir,
    "GETLK": getlk,
    "SETLK": setlk,
    "SETLKW": setlkw,
    "ACCESS": access,
    "CREATE": create,
    "INTERRUPT": interrupt,
    "BMAP": bmap,
    "IOCTL": ioctl,
    "POLL": poll,
    "FALLOCATE": fallocate,
    "READDIRPLUS": readdirplus,
    "RENAME2": rename2,
    "LSEEK": lseek,
    "COPY_FILE_RANGE": copy_file_range,
    "SYNCFS": syncfs,
    "TMPFILE": tmpfile,
    "STATX": statx,
    "COPY_FILE_RANGE_64": copy_file_range_64,
}
"""By the operation's name in `wire.OPERATIONS`."""
