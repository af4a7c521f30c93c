"""The FUSE server: one request's bytes in, one reply's bytes out.

This module is the hot path. LOOKUP, GETATTR, OPEN, READ, WRITE, RELEASE and FORGET are decoded and answered here
without the objects and the decoding by table that `operations` has for all others. That halves them: LOOKUP takes
2.3 us of CPU instead of 4.1, GETATTR 1.4 instead of 3.1 (benchmarks/fuse.py measures both ways). Whatever is added here
is paid by every request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import E2BIG, EBADF, EFBIG, EINVAL, EIO, ENAMETOOLONG, ENOSYS, EOPNOTSUPP, ESTALE
from functools import partial
from struct import Struct

from pykrun.buffers import clip, scatter, skip
from pykrun.fs.interface import FileSystem
from pykrun.fs.types import errno_error
from pykrun.fuse import encode, wire
from pykrun.fuse.negotiate import negotiate
from pykrun.fuse.operations import HANDLERS, Handler, extended_setxattr
from pykrun.fuse.request import Request, decode
from pykrun.fuse.session import Session

INLINE = 4096
"""Requests up to this size are copied whole; of a longer WRITE only header and structure are."""

MAX_INODES = 1 << 20
MAX_HANDLES = 1 << 16

_HEADER_SIZE = wire.IN_HEADER.size
_REPLY_SIZE = wire.OUT_HEADER.size
_WRITE_SIZE = _HEADER_SIZE + wire.WRITE_IN.size
_ENTRY_SIZE = wire.ENTRY_OUT.size
_ATTR_SIZE = wire.ATTR_OUT.size
_OPCODES = wire.OPCODES
_NAME_MAX = wire.NAME_MAX
_OFFSET_MAX = wire.OFFSET_MAX
_DOTS = (b".", b"..")
_SLASH = ord("/")

Step = Callable[[bytes, int, int, Sequence[memoryview]], int]
"""Serve one opcode: the copied request, its unique, its nodeid, the room; return the reply's length."""


OnFault = Callable[[str, Exception], None]


class Server:
    """Serves one file system to one guest.

    `handle` and `reset` are called by one thread at a time, but for requests of `wire.SLOW`, which a second thread may
    bring meanwhile where the other side is a kernel that can be trusted to hold the file open until they are answered.
    Several servers may share a file system. The memoryviews are of format "B". Those of a request may be guest memory
    that changes at any moment: header and structures are copied once, before anything is checked.

    :param filesystem: what is served.
    :param max_inodes: how many inodes the guest may know at a time (ENFILE beyond).
    :param max_handles: how many files, and how many directories, it may have open (ENFILE beyond).
    :param on_fault: called with an operation's name and its first fault; by default that is logged, which a process
        that can import nothing any more cannot.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        *,
        max_inodes: int = MAX_INODES,
        max_handles: int = MAX_HANDLES,
        on_fault: OnFault | None = None,
    ) -> None:
        self.filesystem = filesystem
        self.faults = 0
        """How often a handler raised anything but OSError: a bug; the guest saw EIO."""
        self._session = Session(filesystem, max_inodes=max_inodes, max_handles=max_handles)
        self._counts = [0] * wire.OPCODES
        self._reported: set[int] = set()
        self._on_fault = on_fault
        self._serving = self._serving_steps()
        self._setxattr = self._serving[wire.SETXATTR]
        self._extended_setxattr: Step = partial(self._serve, wire.EXTENDED_SETXATTR, extended_setxattr)
        self._waiting: list[Step] = [self._not_yet] * wire.OPCODES
        self._waiting[wire.INIT] = self._init
        self._steps = self._waiting

    def handle(self, readable: Sequence[memoryview], writable: Sequence[memoryview]) -> int:
        """Serve one request.

        :param readable: the request, in any number of parts.
        :param writable: room for the reply, in any number of parts, however they divide it.
        :return: how many bytes were written into the room: 0 when FUSE sends no reply, or when there is no room even
            for the reply's header (nothing was done then).
        """
        opcode = unique = 0
        try:
            size = 0
            for part in readable:
                size += len(part)
            if size > INLINE:
                return self._handle_large(readable, size, writable)
            request = b"".join(readable)
            if size < _HEADER_SIZE:
                opcode, unique = _salvage(request)
                raise errno_error(EINVAL)
            length, opcode, unique, nodeid = _unpack_head(request)
            if length != size:
                raise errno_error(EINVAL)
            if not writable and opcode not in wire.NO_REPLY:
                return 0
            step = opcode if opcode < _OPCODES else 0
            self._counts[step] += 1
            return self._steps[step](request, unique, nodeid, writable)
        except OSError as error:
            return self._refuse(opcode, unique, error.errno, writable)
        except Exception as bug:
            self._report(opcode, bug)
            return self._refuse(opcode, unique, EIO, writable)

    def handle_again(self, readable: Sequence[memoryview], writable: Sequence[memoryview]) -> int:
        """Serve a request once more that was refused and not answered: the same, but that it is counted once."""
        self._counts[readable[0][4]] -= 1
        return self.handle(readable, writable)

    def reset(self) -> None:
        """End the session as if the guest had unmounted: the device was reset, or the guest is gone."""
        self._session.reset()
        self._steps = self._waiting

    def statistics(self) -> dict[str, int]:
        """Tell how many requests of each operation came, by name; unknown ones as "UNKNOWN"."""
        numbers: dict[str, int] = {}
        for opcode, number in enumerate(self._counts):
            if number:
                name = wire.NAMES.get(opcode, "UNKNOWN")
                numbers[name] = numbers.get(name, 0) + number
        return numbers

    @property
    def initialized(self) -> bool:
        """Between FUSE_INIT and FUSE_DESTROY (or `reset`)."""
        return self._steps is self._serving

    # Sorting

    def _serving_steps(self) -> list[Step]:
        steps: list[Step] = [self._unknown] * wire.OPCODES
        for operation in wire.OPERATIONS:
            handler = HANDLERS.get(operation.name)
            if handler is not None:
                steps[operation.code] = partial(self._serve, operation, handler)
        steps[wire.LOOKUP] = self._lookup
        steps[wire.FORGET] = self._forget
        steps[wire.BATCH_FORGET] = self._batch_forget
        steps[wire.GETATTR] = self._getattr
        steps[wire.OPEN] = self._open
        steps[wire.READ] = self._read
        steps[wire.WRITE] = self._write
        steps[wire.RELEASE] = self._release
        steps[wire.INIT] = self._init_again
        steps[wire.DESTROY] = self._destroy
        steps[wire.NOTIFY_REPLY] = self._ignore
        return steps

    def _handle_large(self, readable: Sequence[memoryview], size: int, writable: Sequence[memoryview]) -> int:
        """Serve a request that is not copied whole. A WRITE's data stays where it is; of others there are few."""
        if (
            len(readable) > 2
            and len(readable[0]) == _HEADER_SIZE
            and len(readable[0]) + len(readable[1]) == _WRITE_SIZE
        ):
            head = b"".join(readable[:2])  # as Linux lays a WRITE out
            payload: Sequence[memoryview] | None = readable[2:]
        else:
            head, payload = b"".join(clip(readable, _WRITE_SIZE)), None
        length, opcode, unique, nodeid = _unpack_head(head)
        if length != size or size > wire.MAX_REQUEST:
            return self._refuse(opcode, unique, EINVAL if length != size else E2BIG, writable)
        try:
            if not writable and opcode not in wire.NO_REPLY:
                return 0
            step = opcode if opcode < _OPCODES else 0
            self._counts[step] += 1
            if opcode == wire.WRITE and self.initialized:
                return self._write(head, unique, nodeid, writable, payload or skip(readable, _WRITE_SIZE))
            # The header that was checked is the one that is used: the guest may have changed its copy since.
            request = head + b"".join(skip(readable, _WRITE_SIZE))
            return self._steps[step](request, unique, nodeid, writable)
        except OSError as error:
            return self._refuse(opcode, unique, error.errno, writable)
        except Exception as bug:
            self._report(opcode, bug)
            return self._refuse(opcode, unique, EIO, writable)

    def _serve(
        self,
        operation: wire.Operation,
        handler: Handler,
        request: bytes,
        unique: int,
        nodeid: int,
        writable: Sequence[memoryview],
        payload: Sequence[memoryview] | None = None,
    ) -> int:
        """Serve any operation by its row and its handler."""
        session = self._session
        room = sum(map(len, writable)) - _REPLY_SIZE
        if room < operation.reply:
            raise errno_error(EINVAL)
        if operation.inode and nodeid not in session.inodes:
            raise errno_error(ESTALE)
        extended = (request[36] | request[37] << 8) * 8
        if extended > len(request) - _HEADER_SIZE:
            raise errno_error(EINVAL)
        end = len(request) - extended
        body = request[_HEADER_SIZE:end]
        if operation is _WRITE and payload is None:
            body, payload = body[: wire.WRITE_IN.size], [memoryview(body)[wire.WRITE_IN.size :]]
        fields = decode(operation, body)
        reply = handler(session, Request(request, nodeid, room, payload or (), request[end:]), *fields)
        return _reply(writable, unique, reply)

    # The hot ones

    def _lookup(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        name = request[_HEADER_SIZE:-1]
        if request[-1] or not name or 0 in name or _SLASH in name or name in _DOTS:
            raise errno_error(EINVAL)
        if len(name) > _NAME_MAX:
            raise errno_error(ENAMETOOLONG)
        session = self._session
        inodes = session.inodes
        if nodeid not in inodes:
            raise errno_error(ESTALE)
        usual = len(writable) == 2 and len(writable[0]) == _REPLY_SIZE and len(writable[1]) >= _ENTRY_SIZE
        if not usual and sum(map(len, writable)) < _REPLY_SIZE + _ENTRY_SIZE:
            raise errno_error(EINVAL)
        entry = self.filesystem.lookup(nodeid, name)
        ino = entry.ino
        if ino in inodes:
            inodes[ino] += 1
        elif ino:
            session.adopt(entry)
        body = entry.wire or encode.entry_out(entry)
        if not usual:
            return _reply(writable, unique, body)
        _pack_header_into(writable[0], 0, _REPLY_SIZE + _ENTRY_SIZE, 0, unique)
        _entry_into(writable[1], 0, body)
        return _REPLY_SIZE + _ENTRY_SIZE

    def _getattr(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        if len(request) < 56:
            raise errno_error(EINVAL)
        session = self._session
        if nodeid not in session.inodes:
            raise errno_error(ESTALE)
        handle = None
        if request[40] & wire.GETATTR_FH:
            number = int.from_bytes(request[48:56], "little")
            if number or not session.stateless_directories:  # a directory that was not opened has handle 0
                # fstat of a directory may come with its handle too
                owner, handle = session.files.get(number) or session.directories.get(number) or (0, None)
                if owner != nodeid:
                    raise errno_error(EBADF)
        attributes = self.filesystem.getattr(nodeid, handle)
        body = attributes.wire or encode.attr_out(attributes)
        if len(writable) != 2 or len(writable[0]) != _REPLY_SIZE or len(writable[1]) < _ATTR_SIZE:
            return _reply(writable, unique, body)
        _pack_header_into(writable[0], 0, _REPLY_SIZE + _ATTR_SIZE, 0, unique)
        _attr_into(writable[1], 0, body)
        return _REPLY_SIZE + _ATTR_SIZE

    def _open(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        if len(request) < 48 or sum(map(len, writable)) < _REPLY_SIZE + wire.OPEN_OUT.size:
            raise errno_error(EINVAL)
        session = self._session
        if nodeid not in session.inodes:
            raise errno_error(ESTALE)
        session.require_room(session.files)
        flags, open_flags = _unpack_open(request, _HEADER_SIZE)
        try:
            opened = self.filesystem.open(nodeid, flags, bool(open_flags & wire.OPEN_KILL_SUIDGID))
        except OSError as error:
            # ENOSYS would say that no file of this file system need ever be opened.
            raise errno_error(EOPNOTSUPP) if error.errno == ENOSYS else error from None
        number = session.add(session.files, nodeid, opened.handle)
        return _reply(writable, unique, _pack_open(number, opened.flags, 0))

    def _read(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        if len(request) < 80:
            raise errno_error(EINVAL)
        number, offset, size, _, _, _ = _unpack_read(request, _HEADER_SIZE)
        owner, handle = self._session.files.get(number, (0, None))
        if owner != nodeid or not owner:
            raise errno_error(EBADF)
        if offset > _OFFSET_MAX:
            raise errno_error(EINVAL)
        first = writable[0]
        buffers = writable[1:] if len(first) == _REPLY_SIZE else skip(writable, _REPLY_SIZE)
        room = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        if room != size:
            if room < size:
                raise errno_error(EINVAL)
            buffers = clip(buffers, size)
        count = self.filesystem.read(nodeid, handle, offset, buffers)
        if count > size:
            raise RuntimeError(f"a read of {size} bytes returned {count}")
        return _header(writable, unique, _REPLY_SIZE + count)

    def _write(
        self,
        request: bytes,
        unique: int,
        nodeid: int,
        writable: Sequence[memoryview],
        payload: Sequence[memoryview] | None = None,
    ) -> int:
        if len(request) < _WRITE_SIZE or request[36] or request[37]:  # too short, or with extensions
            return self._serve(_WRITE, HANDLERS["WRITE"], request, unique, nodeid, writable, payload)
        number, offset, size, write_flags, _, flags = _unpack_write(request, _HEADER_SIZE)
        owner, handle = self._session.files.get(number, (0, None))
        if owner != nodeid or not owner:
            raise errno_error(EBADF)
        if payload is None:
            payload = (memoryview(request)[_WRITE_SIZE:],)
        if size > wire.MAX_WRITE or size != sum(map(len, payload)):
            raise errno_error(EINVAL)
        if offset > _OFFSET_MAX - size:
            raise errno_error(EFBIG)
        if sum(map(len, writable)) < _REPLY_SIZE + wire.WRITE_OUT.size:
            raise errno_error(EINVAL)
        kill = bool(write_flags & wire.WRITE_KILL_SUIDGID)
        count = self.filesystem.write(nodeid, handle, offset, payload, flags, kill)
        return _reply(writable, unique, _pack_written(count))

    def _release(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        if len(request) < 64:
            raise errno_error(EINVAL)
        number, _, flags, lock_owner = _unpack_release(request, _HEADER_SIZE)
        files = self._session.files
        owner, handle = files.get(number, (0, None))
        if owner != nodeid or not owner:
            raise errno_error(EBADF)
        if sum(map(len, writable)) < _REPLY_SIZE:
            return 0
        del files[number]
        self.filesystem.release(nodeid, handle, lock_owner if flags & wire.RELEASE_FLOCK_UNLOCK else None)
        return _header(writable, unique, _REPLY_SIZE)

    def _forget(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        if len(request) >= 48:
            self._session.forget(nodeid, int.from_bytes(request[40:48], "little"))
        return 0

    # The session

    def _batch_forget(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        if len(request) < 48:
            return 0
        number = int.from_bytes(request[40:44], "little")
        if number * wire.FORGET_ONE.size > len(request) - 48:
            return 0  # it lies about its length: believe nothing of it
        for ino, times in wire.FORGET_ONE.iter_unpack(request[48 : 48 + number * wire.FORGET_ONE.size]):
            self._session.forget(ino, times)
        return 0

    def _init(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        if sum(map(len, writable)) < _REPLY_SIZE + wire.INIT_OUT.size:
            raise errno_error(EINVAL)
        agreement = negotiate(request[_HEADER_SIZE:], self.filesystem.features)
        if not agreement.again:
            self._session.flags = agreement.flags
            extended = bool(agreement.flags & wire.SETXATTR_EXT)
            self._serving[wire.SETXATTR] = self._extended_setxattr if extended else self._setxattr
            self._steps = self._serving
        return _reply(writable, unique, agreement.reply)

    def _init_again(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        raise errno_error(EIO)

    def _not_yet(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        raise errno_error(EIO)

    def _unknown(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        raise errno_error(ENOSYS)

    def _ignore(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        return 0

    def _destroy(self, request: bytes, unique: int, nodeid: int, writable: Sequence[memoryview]) -> int:
        self.reset()
        return _header(writable, unique, _REPLY_SIZE)

    # Failure

    def _refuse(self, opcode: int, unique: int, code: int | None, writable: Sequence[memoryview]) -> int:
        if opcode in wire.NO_REPLY:
            return 0
        if code is None or not 0 < code < 512:  # the range that kernels take for an errno
            code = EIO
        try:
            return _header(writable, unique, _REPLY_SIZE, -code)
        except Exception as bug:  # the transport broke its side of the contract
            self._report(opcode, bug)
            return 0

    def _report(self, opcode: int, bug: Exception) -> None:
        """Count a bug, and log the first one of each operation: a guest must not be able to fill a disk."""
        self.faults += 1
        opcode = opcode if opcode < _OPCODES else 0
        if opcode in self._reported:
            return
        self._reported.add(opcode)
        name = wire.NAMES.get(opcode, "UNKNOWN")
        if self._on_fault is not None:
            self._on_fault(name, bug)
            return
        import logging  # only now: it takes longer to import than this whole package

        logging.getLogger("pykrun.fuse").error("fault in FUSE %s, answered EIO", name, exc_info=bug)


_WRITE = next(operation for operation in wire.OPERATIONS if operation.code == wire.WRITE)

_unpack_head = Struct("<IIQQ").unpack_from
_unpack_read = wire.READ_IN.unpack_from
_unpack_write = wire.WRITE_IN.unpack_from
_unpack_open = Struct("<II").unpack_from
_unpack_release = Struct("<QIIQ").unpack_from
_pack_open = wire.OPEN_OUT.pack
_pack_written = wire.WRITE_OUT.pack
_pack_header = wire.OUT_HEADER.pack
_pack_header_into = wire.OUT_HEADER.pack_into
_entry_into = Struct(f"{_ENTRY_SIZE}s").pack_into  # a copy that needs no slice
_attr_into = Struct(f"{_ATTR_SIZE}s").pack_into


def _salvage(request: bytes) -> tuple[int, int]:
    """Tell opcode and unique of a request that is shorter than a header, as far as they are there."""
    padded = request + bytes(_HEADER_SIZE - len(request))
    return int.from_bytes(padded[4:8], "little"), int.from_bytes(padded[8:16], "little")


def _header(writable: Sequence[memoryview], unique: int, length: int, error: int = 0) -> int:
    """Write the reply's header; its body is where it belongs already. Return `length`, 0 when there is no room."""
    first = writable[0] if writable else b""
    if len(first) >= _REPLY_SIZE:
        _pack_header_into(first, 0, length, error, unique)
        return length
    if sum(map(len, writable)) < _REPLY_SIZE:
        return 0
    scatter(_pack_header(length, error, unique), writable)
    return length


def _reply(writable: Sequence[memoryview], unique: int, body: bytes) -> int:
    """Write header and body."""
    length = _REPLY_SIZE + len(body)
    first = writable[0]
    if len(first) == _REPLY_SIZE and len(writable) > 1 and len(writable[1]) >= len(body):  # as Linux lays it out
        _pack_header_into(first, 0, length, 0, unique)
        writable[1][: len(body)] = body
    elif len(first) >= length:
        first[:length] = _pack_header(length, 0, unique) + body
    elif sum(map(len, writable)) < length:
        raise errno_error(EINVAL)
    else:
        scatter(_pack_header(length, 0, unique) + body, writable)
    return length
