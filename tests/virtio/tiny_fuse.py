"""The smallest FUSE server that a guest can have its root on: a tree of bytes in memory, read only.

It is here so that the transport's tests depend on nothing but the transport. It believes what the guest says.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Sequence
from struct import Struct

IN_HEADER = Struct("<IIQQIIII")
OUT_HEADER = Struct("<IiQ")
ATTR = Struct("<QQQQQQIIIIIIIIII")
ENTRY = Struct("<QQQQII")
READ = Struct("<QQII")
DIRENT = Struct("<QQII")

LOOKUP, FORGET, GETATTR, OPEN, READ_OP, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
INIT, OPENDIR, READDIR, RELEASEDIR, IOCTL, BATCH_FORGET = 26, 27, 28, 29, 39, 42
ASYNC_READ, MAX_PAGES = 1, 1 << 22

Tree = dict[str, "Tree | bytes"]


class TinyFuse:
    """Serves `tree`; `exit_code` is what came by the ioctl 0x7602."""

    def __init__(self, tree: Tree) -> None:
        self.requests = 0
        self.inits = 0
        self.exit_code: int | None = None
        self._nodes: list[Tree | bytes] = [{}]
        self._numbers: dict[tuple[int, str], int] = {}
        self._add(tree)
        self._handlers: dict[int, Callable[[int, bytes], bytes]] = {
            INIT: self._init,
            LOOKUP: self._lookup,
            GETATTR: lambda node, body: bytes(16) + self._attr(node),
            OPEN: lambda node, body: bytes(16),
            OPENDIR: lambda node, body: bytes(16),
            READ_OP: self._read,
            READDIR: self._readdir,
            RELEASE: lambda node, body: b"",
            RELEASEDIR: lambda node, body: b"",
            STATFS: lambda node, body: bytes(40) + Struct("<IIII24x").pack(4096, 255, 4096, 0),
            IOCTL: self._ioctl,
        }

    def handle(self, readable: Sequence[memoryview], writable: Sequence[memoryview]) -> int:
        self.requests += 1
        request = b"".join(readable)
        _, code, unique, node, *_ = IN_HEADER.unpack_from(request)
        if code in (FORGET, BATCH_FORGET):
            return 0
        handler = self._handlers.get(code)
        error, reply = 0, b""
        try:
            if handler is None:
                error = -errno.ENOSYS
            else:
                reply = handler(node, request[IN_HEADER.size :])
        except OSError as failure:
            error = -(failure.errno or errno.EIO)
        reply = OUT_HEADER.pack(OUT_HEADER.size + len(reply), error, unique) + reply
        offset = 0
        for view in writable:
            part = reply[offset : offset + len(view)]
            view[: len(part)] = part
            offset += len(part)
        return len(reply)

    def _add(self, content: Tree | bytes) -> int:
        self._nodes.append(content)
        number = len(self._nodes) - 1
        if isinstance(content, dict):
            for name, child in content.items():
                self._numbers[number, name] = self._add(child)
        return number

    def _init(self, node: int, body: bytes) -> bytes:
        self.inits += 1
        return Struct("<IIIIHHIIHHI28x").pack(7, 31, 1 << 20, ASYNC_READ | MAX_PAGES, 64, 48, 1 << 20, 1, 256, 0, 0)

    def _attr(self, number: int) -> bytes:
        node = self._nodes[number]
        size, mode = (0, stat.S_IFDIR) if isinstance(node, dict) else (len(node), stat.S_IFREG)
        return ATTR.pack(number, size, -(-size // 512), 0, 0, 0, 0, 0, 0, mode | 0o755, 1, 0, 0, 0, 4096, 0)

    def _lookup(self, node: int, body: bytes) -> bytes:
        number = self._numbers.get((node, body.rstrip(b"\0").decode()))
        if number is None:
            raise OSError(errno.ENOENT, "")
        return ENTRY.pack(number, 0, 3600, 3600, 0, 0) + self._attr(number)

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size, _ = READ.unpack_from(body)
        content = self._nodes[node]
        assert isinstance(content, bytes)
        return content[offset : offset + size]

    def _readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size, _ = READ.unpack_from(body)
        folder = self._nodes[node]
        assert isinstance(folder, dict)
        reply = b""
        for position, name in list(enumerate(folder, 1))[offset:]:
            entry = DIRENT.pack(self._numbers[node, name], position, len(name), 0) + name.encode()
            entry += bytes(-len(entry) % 8)
            if len(reply) + len(entry) > size:
                break
            reply += entry
        return reply

    def _ioctl(self, node: int, body: bytes) -> bytes:
        _, _, command, argument, _, _ = Struct("<QIIQII").unpack_from(body)
        if command != 0x7602:
            raise OSError(errno.ENOTTY, "")
        self.exit_code = argument
        return bytes(16)
