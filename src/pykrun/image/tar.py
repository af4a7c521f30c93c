"""Entries of a layer's tar stream, one after the other, whatever its bytes are.

POSIX.1-1988 ustar with the extended headers of POSIX.1-2001 (pax) and GNU tar's long names and binary numbers. Of a
header nothing is believed that would need more memory than `_LARGEST_HEADER`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pykrun.errors import ImageError
from pykrun.record import field, record

BLOCK = 512
_LARGEST_HEADER = 1 << 20
"""Bytes of extended headers and long names of one entry."""
_LARGEST = 1 << 62

FILE, HARD_LINK, SYMBOLIC_LINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_CONTIGUOUS, _OLD_FILE = b"7", b"\0"
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_XATTR = b"SCHILY.xattr."
_KNOWN = (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime")
"""Records that mean something here: of what holds for all entries to come nothing else is kept."""


@record(slots=True, kw_only=True)
class Entry:
    """One entry; its bytes are read by `read` before the next entry is asked for, or not at all.

    :param kind: one of the constants of this module.
    :param size: bytes of a file.
    :param mtime_ns: nanoseconds since 1970.
    :param device: major and minor number.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes]
    read: Callable[[int], bytes]


@record(slots=True)
class _Extended:
    """What extended headers say about the entry that follows."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    name: bytes | None = None
    target: bytes | None = None
    room: int = _LARGEST_HEADER


class Stream:
    """Bytes of an iterator, by counts."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def some(self, count: int) -> bytes:
        """Return from 1 to `count` bytes, none at the end."""
        while not self._rest:
            try:
                self._rest = memoryview(next(self._chunks))
            except StopIteration:
                return b""
        found, self._rest = self._rest[:count], self._rest[count:]
        return bytes(found)

    def exactly(self, count: int) -> bytes:
        """Return so many bytes.

        :raise ImageError: there are not as many.
        """
        parts = []
        while count:
            part = self.some(count)
            if not part:
                raise ImageError("it ends early")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def skip(self, count: int) -> None:
        """Drop so many bytes.

        :raise ImageError: there are not as many.
        """
        while count:
            part = self.some(min(count, 1 << 20))
            if not part:
                raise ImageError("it ends early")
            count -= len(part)


def entries(stream: Stream) -> Iterator[Entry]:
    """Yield the entries, and read the stream to its end.

    :raise ImageError: it is no tar stream.
    """
    shared: dict[bytes, bytes] = {}
    extended = _Extended()
    while block := stream.some(BLOCK):
        if len(block) < BLOCK:
            block += stream.exactly(BLOCK - len(block))
        if not any(block):
            break
        _check_sum(block)
        kind = block[156:157]
        size = _number(block[124:136], "size")
        if kind in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
            data = _header_data(stream, size, extended)
            if kind == _PAX_GLOBAL:
                values: dict[bytes, bytes] = {}
                _pax(data, values, {})
                shared |= {key: value for key, value in values.items() if key in _KNOWN}
            elif kind == _PAX:
                _pax(data, extended.values, extended.xattrs)
            elif kind == _LONG_NAME:
                extended.name = data.partition(b"\0")[0]
            else:
                extended.target = data.partition(b"\0")[0]
            continue
        yield from _one(stream, block, size, {**shared, **extended.values}, extended)
        extended = _Extended()
    while stream.some(1 << 20):
        pass


def _header_data(stream: Stream, size: int, extended: _Extended) -> bytes:
    extended.room -= size
    if extended.room < 0:
        raise ImageError("an entry's extended header is too large")
    data = stream.exactly(size)
    stream.skip(-size % BLOCK)
    return data


def _one(stream: Stream, block: bytes, size: int, values: dict[bytes, bytes], extended: _Extended) -> Iterator[Entry]:
    """Yield one entry; then skip what was not read of it."""
    kind = block[156:157]
    if kind in (_OLD_FILE, _CONTIGUOUS):
        kind = FILE
    if b"size" in values:
        size = _decimal(values[b"size"], "size")
    if any(key.startswith(b"GNU.sparse.") for key in values) or kind == b"S":
        raise ImageError("it has sparse files, which are not supported", "make the image without tar's --sparse")
    left = size if kind in (FILE,) else 0
    if kind not in (FILE, HARD_LINK, SYMBOLIC_LINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO):
        raise ImageError(f"it has an entry of the unknown kind {kind!r}")
    padding = -left % BLOCK

    def read(count: int) -> bytes:
        nonlocal left
        if not left:
            return b""
        data = stream.some(min(count, left))
        if not data:
            raise ImageError("it ends early")
        left -= len(data)
        return data

    name, target = _names(block, values, extended)
    if kind == FILE and name.endswith(b"/"):  # how the oldest tars write a directory
        kind = DIRECTORY
    yield Entry(
        name=name,
        kind=kind,
        mode=_number(block[100:108], "mode") & 0o7777,
        uid=_id(block[108:116], values.get(b"uid")),
        gid=_id(block[116:124], values.get(b"gid")),
        size=size,
        mtime_ns=_time(block[136:148], values.get(b"mtime")),
        target=target,
        device=(_number(block[329:337], "device"), _number(block[337:345], "device")),
        xattrs=extended.xattrs,
        read=read,
    )
    stream.skip(left + padding)


def _names(block: bytes, values: dict[bytes, bytes], extended: _Extended) -> tuple[bytes, bytes]:
    """The entry's name and what it links to."""
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    target = block[157:257].partition(b"\0")[0]
    name = values.get(b"path", name if extended.name is None else extended.name)
    target = values.get(b"linkpath", target if extended.target is None else extended.target)
    if b"\0" in name or b"\0" in target:
        raise ImageError("an entry's name has a NUL")
    return name, target


def _check_sum(block: bytes) -> None:
    """The sum of the header's bytes, its own field taken as blanks; old tars added them as signed ones."""
    stored = _number(block[148:156], "checksum")
    rest = block[:148] + b" " * 8 + block[156:]
    plain = sum(rest)
    if stored != plain and stored != plain - 256 * sum(byte > 127 for byte in rest):
        raise ImageError("a header's checksum is wrong")


def _number(text: bytes, what: str) -> int:
    """Octal digits, or GNU's binary numbers: the first bit set, and from 0x80 on positive."""
    if text[0] & 0x80:
        value = int.from_bytes(text, "big") - (0x80 << 8 * (len(text) - 1))
        if text[0] != 0x80 or value >= _LARGEST:
            raise ImageError(f"a header's {what} is out of range")
        return value
    digits = text.strip(b" \0")
    if not digits:
        return 0
    if digits.translate(None, b"01234567"):
        raise ImageError(f"a header's {what} is no number")
    return int(digits, 8)


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 18:
        raise ImageError(f"an extended header's {what} is no number")
    return int(text)


def _id(block: bytes, extended: bytes | None) -> int:
    value = _number(block, "owner") if extended is None else _decimal(extended, "owner")
    if value >= (1 << 32) - 1:
        raise ImageError("an owner's number is out of range")
    return value


def _time(block: bytes, extended: bytes | None) -> int:
    """Nanoseconds; what no file can have becomes 1970: nobody will miss it."""
    if extended is None:
        if block[0] & 0x80:
            value = int.from_bytes(block, "big", signed=True)
            seconds = value if block[0] == 0xFF else value + (1 << 95) if block[0] == 0x80 else 0
        else:
            seconds = _number(block, "time")
        return seconds * 1_000_000_000 if abs(seconds) < 1 << 33 else 0
    whole, _, fraction = extended.partition(b".")
    digits = whole.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 10 or (fraction and not fraction.isdigit()):
        raise ImageError("an extended header's time is no number")
    nanoseconds = int((fraction[:9] + b"0" * 9)[:9])
    return (
        int(digits) * 1_000_000_000 + nanoseconds if digits == whole else -(int(digits) * 1_000_000_000 + nanoseconds)
    )


def _pax(data: bytes, values: dict[bytes, bytes], xattrs: dict[bytes, bytes]) -> None:
    """Records `LENGTH KEY=VALUE` and a newline, the length that of all of it (pax, "Extended Header")."""
    at = 0
    while at < len(data):
        if not any(data[at : at + 32]):
            return
        blank = data.find(b" ", at, at + 9)
        length = data[at:blank] if blank > 0 else b""
        if not length.isdigit() or int(length) < blank - at + 3 or at + int(length) > len(data):
            raise ImageError("an extended header is damaged")
        end = at + int(length)
        key, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n":
            raise ImageError("an extended header is damaged")
        if key.startswith(_XATTR):
            if b"\0" in key:
                raise ImageError("an attribute's name has a NUL")
            xattrs[key[len(_XATTR) :]] = value
        else:
            values[key] = value
        at = end
