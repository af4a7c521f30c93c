"""One vhost-user connection: bytes and descriptors in, whole requests out; never blocks."""

from __future__ import annotations

import os
import socket

from pykrun.errors import VhostUserError
from pykrun.vhost_user.messages import (
    FLAG_NEED_REPLY,
    FLAG_REPLY,
    FLAG_VERSION_MASK,
    FLAGS_KNOWN,
    HEADER,
    KINDS,
    MAX_DESCRIPTORS,
    MAX_PAYLOAD,
    VERSION,
)

_ANCILLARY = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)  # more than that the kernel closes, and says so


class Request:
    """One message of the front end, its form checked: header, size, number of descriptors.

    It owns the descriptors until they are taken.
    """

    __slots__ = ("code", "descriptors", "need_reply", "payload")

    def __init__(self, code: int, need_reply: bool, payload: bytes, descriptors: list[int]) -> None:
        self.code = code
        self.need_reply = need_reply
        self.payload = payload
        self.descriptors = descriptors

    @property
    def name(self) -> str:
        """The specification's name, or the number of a request that we do not know."""
        kind = KINDS.get(self.code)
        return kind.name if kind else f"request {self.code}"

    def take_all(self) -> list[int]:
        """Hand over the descriptors."""
        taken, self.descriptors = self.descriptors, []
        return taken

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        for fd in self.take_all():
            os.close(fd)


class Connection:
    """The front end's end of the wire.

    :param stream: a connected Unix stream socket; closed by `close`.
    """

    def __init__(self, stream: socket.socket) -> None:
        stream.setblocking(False)
        self._stream = stream
        self._received = bytearray()
        self._descriptors: list[int] = []
        self._wanted = HEADER.size
        self._code = self._flags = 0

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._stream.fileno()

    def receive(self) -> Request | None:
        """Return the next request, None when it has not arrived completely.

        :raise VhostUserError: the bytes are no request.
        :raise EOFError: the front end is gone.
        """
        while True:
            while len(self._received) < self._wanted:
                if not self._read(self._wanted - len(self._received)):
                    return None
            if self._wanted == HEADER.size and not self._code:
                self._header()
                continue
            return self._finish()

    def send(self, code: int, payload: bytes) -> None:
        """Send a reply.

        :raise VhostUserError: the front end does not read what it asked for.
        :raise EOFError: the front end is gone.
        """
        message = HEADER.pack(code, VERSION | FLAG_REPLY, len(payload)) + payload
        try:
            sent = self._stream.send(message, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise EOFError(f"front end is gone: {error}") from None
        if sent != len(message):
            raise VhostUserError("front end does not read its replies")

    def close(self) -> None:
        """Close the socket and every descriptor of a message that was not complete."""
        for fd in self._descriptors:
            os.close(fd)
        self._descriptors.clear()
        self._stream.close()

    def _read(self, count: int) -> bool:
        try:
            data, ancillary, flags, _ = self._stream.recvmsg(count, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except OSError as error:
            raise EOFError(f"front end is gone: {error}") from None
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                usable = memoryview(content)[: len(content) & ~3].cast("i")
                self._descriptors.extend(usable)
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > MAX_DESCRIPTORS:
            raise VhostUserError(f"a message with more than {MAX_DESCRIPTORS} descriptors")
        if not data:
            if self._received or self._descriptors or self._code:
                raise VhostUserError("connection ended in the middle of a message")
            raise EOFError("front end closed the connection")
        self._received += data
        return True

    def _header(self) -> None:
        code, flags, size = HEADER.unpack(self._received)
        if flags & FLAG_VERSION_MASK != VERSION or flags & FLAG_REPLY or flags & ~FLAGS_KNOWN:
            raise VhostUserError(f"request {code} with flags {flags:#x}")
        if code == 0:
            raise VhostUserError("request 0")
        if size > MAX_PAYLOAD:
            raise VhostUserError(f"request {code} with {size} bytes, more than {MAX_PAYLOAD}")
        kind = KINDS.get(code)
        if kind is not None and not kind.smallest <= size <= kind.largest:
            raise VhostUserError(f"{kind.name} with {size} bytes")
        self._received.clear()
        self._code, self._flags, self._wanted = code, flags, size

    def _finish(self) -> Request:
        kind = KINDS.get(self._code)
        if len(self._descriptors) > (kind.descriptors if kind is not None else MAX_DESCRIPTORS):
            raise VhostUserError(f"request {self._code} with {len(self._descriptors)} descriptors")
        need_reply = bool(self._flags & FLAG_NEED_REPLY)
        request = Request(self._code, need_reply, bytes(self._received), self._descriptors)
        self._received = bytearray()
        self._descriptors = []
        self._wanted = HEADER.size
        self._code = 0
        return request
