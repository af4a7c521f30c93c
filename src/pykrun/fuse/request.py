"""A request with its header checked, and the decoding of its body by the operation's row in the wire tables."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EINVAL, ENAMETOOLONG
from struct import error as StructError
from struct import unpack_from
from typing import Any

from pykrun.fs.types import Caller, errno_error
from pykrun.fuse import wire


class Request:
    """A request whose header was checked: what handlers need beside their fields."""

    __slots__ = ("_extensions", "_header", "ino", "payload", "room")

    def __init__(
        self, header: bytes, ino: int, room: int, payload: Sequence[memoryview], extensions: bytes = b""
    ) -> None:
        self._header = header
        self._extensions = extensions
        self.ino = ino
        self.room = room
        """Bytes that the body of the reply may have."""
        self.payload = payload
        """A WRITE's data, still in guest memory."""

    def caller(self) -> Caller:
        """Tell who asks."""
        uid, gid, pid = unpack_from("<III", self._header, 24)
        return Caller(uid, gid, pid, _groups(self._extensions))


def _groups(extensions: bytes) -> tuple[int, ...]:
    """Find the supplementary groups among a request's extensions.

    :raise OSError: EINVAL for an extension that is longer than what there is.
    """
    position = 0
    while position < len(extensions):
        if position + wire.EXTENSION.size > len(extensions):
            raise errno_error(EINVAL)
        size, kind = wire.EXTENSION.unpack_from(extensions, position)
        if size < wire.EXTENSION.size or position + size > len(extensions):
            raise errno_error(EINVAL)
        if kind == wire.EXT_GROUPS:
            body = extensions[position + wire.EXTENSION.size : position + size]
            if len(body) < 4:
                raise errno_error(EINVAL)
            (number,) = unpack_from("<I", body)
            if number > wire.MAX_GROUPS or 4 + 4 * number > len(body):
                raise errno_error(EINVAL)
            return unpack_from(f"<{number}I", body, 4)
        position += size + -size % 8
    return ()


def decode(operation: wire.Operation, body: bytes) -> list[Any]:
    """Take a body apart as its row says.

    :raise OSError: EINVAL for a short body or a name that must not be, ENAMETOOLONG.
    """
    try:
        fields: list[Any] = [*operation.body.unpack_from(body)]
    except StructError:
        raise errno_error(EINVAL) from None
    position = operation.body.size
    for kind in operation.names:
        end = body.find(0, position)
        if end < 0:
            raise errno_error(EINVAL)
        text = body[position:end]
        check_name(text) if kind == "n" else _check_text(text, wire.PATH_MAX if kind == "p" else wire.NAME_MAX + 1)
        fields.append(text)
        position = end + 1
    if operation.tail:
        fields.append(body[position:])
    elif operation.names and position != len(body):
        raise errno_error(EINVAL)  # a NUL inside the last name
    return fields


def check_name(name: bytes) -> None:
    """Check a name that is to be found or made in a directory.

    :raise OSError: EINVAL when it is empty, ".", ".." or has a slash, ENAMETOOLONG above 255 bytes.
    """
    if not name or b"/" in name or name == b"." or name == b"..":
        raise errno_error(EINVAL)
    if len(name) > wire.NAME_MAX:
        raise errno_error(ENAMETOOLONG)


def _check_text(text: bytes, limit: int) -> None:
    if not text:
        raise errno_error(EINVAL)
    if len(text) >= limit:
        raise errno_error(ENAMETOOLONG)
