"""The FUSE wire format, declared once: numbers, structures, limits, one row per operation.

Source: the Linux kernel's include/uapi/linux/fuse.h, protocol 7.45. Everything is little endian, which every machine
that we serve is. Names end with one NUL; a structure's variable part follows it.
"""

from __future__ import annotations

from struct import Struct

from pykrun.fs.packed import ATTR, ATTR_OUT, ATTR_SUBMOUNT, DIRENT, ENTRY_OUT

__all__ = ["ATTR", "ATTR_OUT", "ATTR_SUBMOUNT", "DIRENT", "ENTRY_OUT"]  # declared where file systems can have them

MAJOR = 7
MINOR = 45
OLDEST_MINOR = 31  # virtio-fs came with it; all structures have had the same size since 7.23

IN_HEADER = Struct("<IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
OUT_HEADER = Struct("<IiQ")  # len, error, unique

NAME_MAX = 255
PATH_MAX = 4096
XATTR_SIZE_MAX = 65536
MAX_WRITE = 1 << 20
MAX_PAGES = 256
OFFSET_MAX = (1 << 63) - 1
MAX_REQUEST = 40 + 40 + MAX_WRITE  # the longest legal request: a WRITE

ENTRY_HEAD = Struct("<QQQQII")  # nodeid, generation, seconds of the name and of the attributes, nanoseconds
ATTR_HEAD = Struct("<QI4x")  # seconds, nanoseconds
OPEN_OUT = Struct("<QII")
STATX_OUT = Struct("<QII16x" + "IIQIIIHxxQQQQ" + "qII" * 4 + "IIII112x")
STATFS_OUT = Struct("<QQQQQIIII24x")
INIT_OUT = Struct("<IIIIHHIIHHII24x")
WRITE_OUT = Struct("<I4x")
COPY_OUT_64 = Struct("<Q")
GETXATTR_OUT = Struct("<I4x")
LSEEK_OUT = Struct("<Q")
IOCTL_OUT = Struct("<iIII")
LOCK_OUT = Struct("<QQII")
POLL_OUT = Struct("<I4x")
BMAP_OUT = Struct("<Q")

READ_IN = Struct("<QQIIQI4x")
WRITE_IN = Struct("<QQIIQI4x")
FORGET_ONE = Struct("<QQ")
EXTENSION = Struct("<II")  # size with this header, type

EXT_GROUPS = 32
MAX_GROUPS = 65536  # NGROUPS_MAX

# INIT flags; from bit 32 on they travel in flags2.
ASYNC_READ = 1 << 0
POSIX_LOCKS = 1 << 1
ATOMIC_O_TRUNC = 1 << 3
BIG_WRITES = 1 << 5
DONT_MASK = 1 << 6
FLOCK_LOCKS = 1 << 10
HAS_IOCTL_DIR = 1 << 11
AUTO_INVAL_DATA = 1 << 12
DO_READDIRPLUS = 1 << 13
READDIRPLUS_AUTO = 1 << 14
ASYNC_DIO = 1 << 15
WRITEBACK_CACHE = 1 << 16
NO_OPEN_SUPPORT = 1 << 17
PARALLEL_DIROPS = 1 << 18
POSIX_ACL = 1 << 20
ABORT_ERROR = 1 << 21
MAX_PAGES_FLAG = 1 << 22
CACHE_SYMLINKS = 1 << 23
NO_OPENDIR_SUPPORT = 1 << 24
SUBMOUNTS = 1 << 27
HANDLE_KILLPRIV_V2 = 1 << 28
SETXATTR_EXT = 1 << 29
INIT_EXT = 1 << 30
CREATE_SUPP_GROUP = 1 << 34

FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_FH = 1 << 6
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8
FATTR_LOCKOWNER = 1 << 9
FATTR_CTIME = 1 << 10
FATTR_KILL_SUIDGID = 1 << 11

GETATTR_FH = 1 << 0
OPEN_KILL_SUIDGID = 1 << 0
WRITE_KILL_SUIDGID = 1 << 2
FSYNC_FDATASYNC = 1 << 0
RELEASE_FLOCK_UNLOCK = 1 << 1
LK_FLOCK = 1 << 0
IOCTL_DIR = 1 << 4

SETXATTR_ACL_KILL_SGID = 1 << 0

RENAME_NOREPLACE = 1 << 0
RENAME_EXCHANGE = 1 << 1
RENAME_WHITEOUT = 1 << 2

LOOKUP = 1
FORGET = 2
GETATTR = 3
OPEN = 14
READ = 15
WRITE = 16
RELEASE = 18
SETXATTR = 21
INIT = 26
SETLKW = 33
INTERRUPT = 36
DESTROY = 38
NOTIFY_REPLY = 41
BATCH_FORGET = 42

NO_REPLY = frozenset({FORGET, BATCH_FORGET, NOTIFY_REPLY})

SLOW = frozenset({20, 43, 47, 53})
"""FSYNC, FALLOCATE and both COPY_FILE_RANGE: they may take long, and need nothing but an open file, so another thread
may serve them beside all others."""

APART = SLOW | {SETLKW, INTERRUPT}
"""What a mount may serve in another way than the rest."""


class Operation:
    """One row of the protocol.

    :param body: the structure after the header.
    :param names: the NUL-terminated texts that follow the structure, a letter each: n a name in a directory, p a
        path (where a symbolic link points), x the name of an extended attribute.
    :param reply: least room that the reply's body needs; checked before anything is done.
    :param inode: the header's nodeid must be an inode that the guest knows.
    :param tail: bytes may follow names and structure (a value, ioctl data).
    """

    __slots__ = ("body", "code", "inode", "name", "names", "reply", "tail")

    def __init__(
        self,
        code: int,
        name: str,
        body: str = "",
        *,
        names: str = "",
        reply: int = 0,
        inode: bool = True,
        tail: bool = False,
    ) -> None:
        self.code = code
        self.name = name
        self.body = Struct("<" + body)
        self.names = names
        self.reply = reply
        self.inode = inode
        self.tail = tail


OPERATIONS = (
    Operation(LOOKUP, "LOOKUP", names="n", reply=ENTRY_OUT.size),
    Operation(FORGET, "FORGET", "Q"),
    Operation(GETATTR, "GETATTR", "I4xQ", reply=ATTR_OUT.size),
    Operation(4, "SETATTR", "I4xQQQQQQIIII4xII4x", reply=ATTR_OUT.size),
    Operation(5, "READLINK"),
    Operation(6, "SYMLINK", names="np", reply=ENTRY_OUT.size),
    Operation(8, "MKNOD", "III4x", names="n", reply=ENTRY_OUT.size),
    Operation(9, "MKDIR", "II", names="n", reply=ENTRY_OUT.size),
    Operation(10, "UNLINK", names="n"),
    Operation(11, "RMDIR", names="n"),
    Operation(12, "RENAME", "Q", names="nn"),
    Operation(13, "LINK", "Q", names="n", reply=ENTRY_OUT.size),
    Operation(OPEN, "OPEN", "II", reply=OPEN_OUT.size),
    Operation(READ, "READ", "QQIIQI4x"),
    Operation(WRITE, "WRITE", "QQIIQI4x", reply=WRITE_OUT.size),
    Operation(17, "STATFS", reply=STATFS_OUT.size),
    Operation(RELEASE, "RELEASE", "QIIQ"),
    Operation(20, "FSYNC", "QI4x"),
    Operation(SETXATTR, "SETXATTR", "II", names="x", tail=True),  # as EXTENDED_SETXATTR once that was agreed
    Operation(22, "GETXATTR", "I4x", names="x"),
    Operation(23, "LISTXATTR", "I4x"),
    Operation(24, "REMOVEXATTR", names="x"),
    Operation(25, "FLUSH", "Q8xQ"),
    Operation(INIT, "INIT", "IIII", reply=INIT_OUT.size, inode=False, tail=True),
    Operation(27, "OPENDIR", "II", reply=OPEN_OUT.size),
    Operation(28, "READDIR", "QQIIQI4x"),
    Operation(29, "RELEASEDIR", "QIIQ"),
    Operation(30, "FSYNCDIR", "QI4x"),
    Operation(31, "GETLK", "QQQQIII4x", reply=LOCK_OUT.size),
    Operation(32, "SETLK", "QQQQIII4x"),
    Operation(SETLKW, "SETLKW", "QQQQIII4x"),
    Operation(34, "ACCESS", "I4x"),
    Operation(35, "CREATE", "IIII", names="n", reply=ENTRY_OUT.size + OPEN_OUT.size),
    Operation(INTERRUPT, "INTERRUPT", inode=False),
    Operation(37, "BMAP", "QI4x", reply=BMAP_OUT.size),
    Operation(DESTROY, "DESTROY", inode=False),
    Operation(39, "IOCTL", "QIIQII", reply=IOCTL_OUT.size, inode=False, tail=True),
    Operation(40, "POLL", "QQII", reply=POLL_OUT.size),
    Operation(NOTIFY_REPLY, "NOTIFY_REPLY", inode=False),
    Operation(BATCH_FORGET, "BATCH_FORGET", "I4x", inode=False, tail=True),
    Operation(43, "FALLOCATE", "QQQI4x"),
    Operation(44, "READDIRPLUS", "QQIIQI4x"),
    Operation(45, "RENAME2", "QI4x", names="nn"),
    Operation(46, "LSEEK", "QQI4x", reply=LSEEK_OUT.size),
    Operation(47, "COPY_FILE_RANGE", "QQQQQQQ", reply=WRITE_OUT.size),
    Operation(50, "SYNCFS", "8x"),
    Operation(51, "TMPFILE", "IIII", reply=ENTRY_OUT.size + OPEN_OUT.size),  # and a name without meaning, "/" in Linux
    Operation(52, "STATX", "I4xQII", reply=STATX_OUT.size),
    Operation(53, "COPY_FILE_RANGE_64", "QQQQQQQ", reply=COPY_OUT_64.size),
)
"""Every operation that is served. SETUPMAPPING and REMOVEMAPPING (no DAX window) and unknown ones answer ENOSYS."""

EXTENDED_SETXATTR = Operation(SETXATTR, "SETXATTR", "III4x", names="x", tail=True)
"""With `SETXATTR_EXT`: the third member has flags of its own."""

OPCODES = 64
"""Room in the tables indexed by opcode; opcodes from here on are counted and answered as 0, which is unknown."""

NAMES = {operation.code: operation.name for operation in OPERATIONS}
