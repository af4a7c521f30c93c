"""A generator of FUSE traffic that knows the protocol's structure: sequences of good, odd and broken messages.

Plain seeded random numbers: a million inputs take minutes, not hours, and a seed repeats a failure. The generator looks
at replies as a guest would, so that inodes and handles in its messages are mostly alive.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

from tests.fuse import guest as fuse
from tests.fuse.guest import cut

BODIES = {
    fuse.FORGET: "Q",
    fuse.GETATTR: "IIQ",
    fuse.SETATTR: "IIQQQQQQIIIIIIII",
    fuse.MKNOD: "IIII",
    fuse.MKDIR: "II",
    fuse.RENAME: "Q",
    fuse.LINK: "Q",
    fuse.OPEN: "II",
    fuse.READ: "QQIIQII",
    fuse.WRITE: "QQIIQII",
    fuse.RELEASE: "QIIQ",
    fuse.FSYNC: "QII",
    fuse.SETXATTR: "II",
    fuse.GETXATTR: "II",
    fuse.LISTXATTR: "II",
    fuse.FLUSH: "QIIQ",
    fuse.INIT: "IIIII44x",
    fuse.OPENDIR: "II",
    fuse.READDIR: "QQIIQII",
    fuse.READDIRPLUS: "QQIIQII",
    fuse.RELEASEDIR: "QIIQ",
    fuse.FSYNCDIR: "QII",
    fuse.GETLK: "QQQQIIII",
    fuse.SETLK: "QQQQIIII",
    fuse.SETLKW: "QQQQIIII",
    fuse.ACCESS: "II",
    fuse.CREATE: "IIII",
    fuse.INTERRUPT: "Q",
    fuse.BMAP: "QII",
    fuse.IOCTL: "QIIQII",
    fuse.POLL: "QQII",
    fuse.BATCH_FORGET: "II",
    fuse.FALLOCATE: "QQQII",
    fuse.RENAME2: "QII",
    fuse.LSEEK: "QQII",
    fuse.COPY_FILE_RANGE: "QQQQQQQ",
    fuse.COPY_FILE_RANGE_64: "QQQQQQQ",
    fuse.SYNCFS: "Q",
    fuse.TMPFILE: "IIII",
    fuse.STATX: "IIQII",
}
WITH_NAMES = {
    fuse.LOOKUP: 1,
    fuse.SYMLINK: 2,
    fuse.MKNOD: 1,
    fuse.MKDIR: 1,
    fuse.UNLINK: 1,
    fuse.RMDIR: 1,
    fuse.RENAME: 2,
    fuse.RENAME2: 2,
    fuse.LINK: 1,
    fuse.CREATE: 1,
    fuse.SETXATTR: 1,
    fuse.GETXATTR: 1,
    fuse.REMOVEXATTR: 1,
    fuse.TMPFILE: 1,
}
HANDLED = (fuse.READ, fuse.WRITE, fuse.RELEASE, fuse.READDIR, fuse.READDIRPLUS, fuse.RELEASEDIR, fuse.LSEEK)
OPCODES = list(range(1, 56))
COMMON = [fuse.LOOKUP] * 8 + [fuse.OPEN, fuse.OPENDIR, fuse.CREATE] * 4 + list(HANDLED) * 3 + [fuse.FORGET] * 2
COMMON += [
    fuse.SYMLINK,
    fuse.READLINK,
    fuse.MKDIR,
    fuse.LINK,
    fuse.RENAME,
    fuse.RENAME,
    fuse.RENAME2,
    fuse.SETXATTR,
    fuse.GETXATTR,
    fuse.IOCTL,
]
NAMES = [b"text", b"once", b"dir", b"leaf", b"real", b"new", b"etc", b"lazy", b"bad", b"n" * 255]
BAD_NAMES = [b"", b".", b"..", b"/", b"a/b", b"n" * 256, b"\xff\0x"]
EDGES = [0, 1, 2, 7, 8, 15, 16, 17, 24, 100, 128, 255, 256, 4095, 4096, 4097, 65535, 65536, 1 << 20, (1 << 31) - 1]
EDGES += [1 << 31, (1 << 32) - 1, 1 << 32, (1 << 62), (1 << 63) - (1 << 32), (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
ROOMS = [0, 1, 15, 16, 17, 31, 32, 100, 120, 143, 144, 160, 300, 4112, 70000]


class Fuzzer:
    """Makes messages from a seed, and learns from the replies."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.inodes = [1, 1, 1]
        self.handles: list[tuple[int, int]] = [(1, 0)]
        self.opcode = 0
        self.node = 0

    def request(self) -> bytes:
        random = self.random
        self.opcode = random.choice(COMMON) if random.random() < 0.6 else random.choice(OPCODES)
        if random.random() < 0.002:
            self.opcode = random.choice([*EDGES, fuse.DESTROY, fuse.INIT])
        self.opcode &= 0xFFFFFFFF
        self.node = random.choice(self.inodes) if random.random() < 0.95 else self._number(64)
        if self.opcode in WITH_NAMES and random.random() < 0.6:
            self.node = 1
        body = self._body()
        extension = random.choice((1, 2, 5, 65535)) if random.random() < 0.02 else 0
        length = 40 + len(body)
        if random.random() < 0.01:
            length = self._number(32)
        ids = (self._number(32), self._number(32), 1) if random.random() < 0.1 else (0, 0, 1)
        header = struct.pack("<IIQQIIIHH", length, self.opcode, 77, self.node, *ids, extension, 0)
        data = header + body
        if random.random() < 0.02:
            data = self._damaged(data)
        return data

    def room(self) -> int:
        if self.random.random() < 0.8:
            return 4112 if self.random.random() < 0.9 else 70000
        return self.random.choice(ROOMS)

    def divide(self, data: bytes | bytearray) -> list[memoryview]:
        """Cut as Linux does, or anywhere."""
        random = self.random
        chance = random.random()
        parts: Sequence[int]
        if chance < 0.6:
            parts = (16,) if isinstance(data, bytearray) else (40,)
        elif chance < 0.8:
            parts = ()
        else:
            parts = [random.choice((0, 1, 3, 8, 15, 16, 17, 40, 64)) for _ in range(random.randrange(6))]
        return cut(data, parts)

    def learn(self, reply: bytes | bytearray) -> None:
        """Remember what the reply gave."""
        if len(reply) < 32 or reply[4:8] != b"\0\0\0\0":
            return
        (first,) = struct.unpack_from("<Q", reply, 16)
        if self.opcode in (fuse.OPEN, fuse.OPENDIR):
            self._keep_handle(self.node, first)
        elif self.opcode in (fuse.LOOKUP, fuse.MKDIR, fuse.MKNOD, fuse.SYMLINK, fuse.LINK) and first:
            self._keep_inode(first)
        elif self.opcode in (fuse.CREATE, fuse.TMPFILE) and len(reply) >= 160:
            self._keep_inode(first)
            self._keep_handle(first, struct.unpack_from("<Q", reply, 144)[0])

    def _keep_inode(self, ino: int) -> None:
        self.inodes.append(ino)
        del self.inodes[3:-20]

    def _keep_handle(self, ino: int, number: int) -> None:
        self.handles.append((ino, number))
        del self.handles[1:-20]

    def _number(self, bits: int) -> int:
        random = self.random
        if random.random() < 0.7:
            value = random.choice(EDGES)
        else:
            value = random.getrandbits(random.choice((3, 8, 16, 32, 64)))
        return value & ((1 << bits) - 1)

    def _name(self) -> bytes:
        random = self.random
        if random.random() < 0.05:
            return random.choice(BAD_NAMES)
        if random.random() < 0.5:
            return b"f%d" % random.randrange(30)
        return random.choice(NAMES) if random.random() < 0.9 else random.randbytes(random.randrange(1, 30))

    def _body(self) -> bytes:
        random = self.random
        form = BODIES.get(self.opcode, "")
        values = [self._value(kind) for kind in form if kind in "QI"]
        if values and form[0] == "Q" and self.opcode not in (fuse.FORGET, fuse.RENAME, fuse.RENAME2, fuse.LINK):
            if random.random() < 0.9:
                self.node, values[0] = random.choice(self.handles)
            if self.opcode in (fuse.READ, fuse.READDIR, fuse.READDIRPLUS) and random.random() < 0.8:
                values[1], values[2] = random.choice((0, 0, 1, 3, 4096)), random.choice((10, 24, 200, 4096))
        if self.opcode in (fuse.RENAME, fuse.RENAME2, fuse.LINK) and random.random() < 0.9:
            values[0] = random.choice(self.inodes) if self.opcode == fuse.LINK else 1
        if self.opcode == fuse.OPEN and random.random() < 0.8:
            values[0] = 0
        if self.opcode == fuse.INIT and random.random() < 0.8:
            values[:3] = 7, 38, 131072
        if self.opcode == fuse.IOCTL and random.random() < 0.8:
            values[2], values[4:] = random.choice((0x7602, 0x1234)), (0, 8)
        tail = b"".join(self._name() + b"\0" for _ in range(WITH_NAMES.get(self.opcode, 0)))
        if self.opcode in (fuse.WRITE, fuse.SETXATTR, fuse.IOCTL, fuse.BATCH_FORGET):
            data = random.randbytes(random.choice((0, 1, 16, 100, 5000)))
            tail += data
            if self.opcode == fuse.SETXATTR and random.random() < 0.8:
                values[:] = len(data), 0
            if self.opcode == fuse.WRITE and random.random() < 0.8:
                values[1:3] = random.randrange(1000), len(tail)
        return struct.pack("<" + form, *values) + tail

    def _value(self, kind: str) -> int:
        return self._number(64 if kind == "Q" else 32)

    def _damaged(self, data: bytes) -> bytes:
        random = self.random
        if random.random() < 0.5:
            return data[: random.randrange(len(data) + 1)]
        damaged = bytearray(data)
        for _ in range(random.randrange(1, 8)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        return bytes(damaged)
