"""DHCP messages (RFC 2131, 2132): bytes to fields and back, with every check that bytes from a network need."""

from __future__ import annotations

from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Route = tuple[bytes, int, bytes]
    """Destination, length of its prefix, gateway; `ANY` as the gateway is a destination on the link itself."""

DISCOVER, OFFER, REQUEST, _DECLINE, ACK, NAK = range(1, 7)
ANY = b"\0\0\0\0"
LONGEST = 1472
"""Bytes of a message that we announce to take (option 57) and take: one frame of an Ethernet."""

# op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, magic cookie
_HEADER = Struct("!4B4s2H4s4s4s4s16s64s128s4s")
_SHORTEST = 300  # BOOTP (RFC 951); relays and servers that drop shorter ones exist
_COOKIE = b"\x63\x82\x53\x63"
_BOOT_REQUEST, _BOOT_REPLY = 1, 2
_ETHERNET = (1, 6)
_BROADCAST = 0x8000

# RFC 2132, but RFC 4039 (80), RFC 3397 (119), RFC 3442 (121)
_PAD, _MASK, _ROUTER, _SERVERS, _HOST, _DOMAIN, _MTU = 0, 1, 3, 6, 12, 15, 26
_REQUESTED, _LEASE, _OVERLOAD, _TYPE, _SERVER, _WANTED, _SIZE, _RENEW, _REBIND = 50, 51, 52, 53, 54, 55, 57, 58, 59
_RAPID, _SEARCH, _ROUTES, _END = 80, 119, 121, 255
_ASKED = bytes((_MASK, _ROUTER, _SERVERS, _HOST, _DOMAIN, _MTU, _SEARCH, _ROUTES))

_INFINITE = 0xFFFFFFFF
_LONGEST_NAME, _LONGEST_LABEL, _LONGEST_HOST = 255, 63, 64
_IN_NAMES = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


class Malformed(ValueError):
    """The message is none, or lacks what it must have; says why."""


class Reply:
    """What a server says. Of what is optional, the absent and the malformed have their defaults.

    `lease`, `renew`, `rebind` are seconds, None if not told; a lease of None has no end. `servers` are name servers,
    `search` the domains to complete names with. `ignored` holds the codes of malformed options.
    """

    server = ANY
    address = ANY
    prefix = -1
    lease: int | None = None
    renew: int | None = None
    rebind: int | None = None
    routes: list[Route] = []
    servers: list[bytes] = []
    search: list[str] = []
    hostname: str | None = None
    mtu: int | None = None

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.ignored: list[int] = []


def encode(
    kind: int,
    xid: bytes,
    mac: bytes,
    seconds: int = 0,
    own: bytes = ANY,
    requested: bytes = b"",
    server: bytes = b"",
) -> bytes:
    """DISCOVER or REQUEST.

    :param seconds: since the client began.
    :param own: the address that the client has and answers on; without one it asks for broadcast answers.
    :param requested: the address that was offered, and `server` by whom.
    """
    flags = 0 if own != ANY else _BROADCAST
    parts = [
        _HEADER.pack(
            _BOOT_REQUEST, *_ETHERNET, 0, xid, min(seconds, 0xFFFF), flags, own, ANY, ANY, ANY, mac, b"", b"", _COOKIE
        ),
        bytes((_TYPE, 1, kind)),
    ]
    if kind == DISCOVER:
        parts.append(bytes((_RAPID, 0)))
    for code, address in ((_REQUESTED, requested), (_SERVER, server)):
        if address:
            parts.append(bytes((code, 4)) + address)
    parts.append(bytes((_SIZE, 2, *divmod(LONGEST, 256), _WANTED, len(_ASKED))) + _ASKED + bytes((_END,)))
    return b"".join(parts).ljust(_SHORTEST, b"\0")


def decode(data: bytes, xid: bytes, mac: bytes) -> Reply | None:
    """A server's answer; None for what is none, or is one to somebody else.

    :raise Malformed: it is for us, but not as it must be.
    """
    if len(data) < _HEADER.size:
        raise Malformed("cut short in its header")
    op, kind, length, _, their_xid, _, _, _, address, _, _, hardware, sname, file, cookie = _HEADER.unpack_from(data)
    if op != _BOOT_REPLY or their_xid != xid or hardware[: len(mac)] != mac:
        return None
    if len(data) > LONGEST:
        raise Malformed(f"longer than {LONGEST} bytes")
    if (kind, length) != _ETHERNET:
        raise Malformed("not for Ethernet")
    if cookie != _COOKIE:
        raise Malformed("BOOTP without DHCP")
    return _parse(_collect(data[_HEADER.size :], sname, file), address)


def is_host(address: bytes) -> bool:
    """Whether it can be the address of one machine: not of this very machine, a group, or everybody."""
    return 0 < address[0] < 224 and address[0] != 127


def mask_of(prefix: int) -> int:
    """The network mask as a number."""
    return (_INFINITE << 32 - prefix) & _INFINITE


# -- options -------------------------------------------------------------------------------------------------------


def _collect(area: bytes, sname: bytes, file: bytes) -> dict[int, bytes]:
    """All options, those that come in parts in one piece (RFC 3396)."""
    options: dict[int, bytes] = {}
    _scan(area, options)
    overload = options.get(_OVERLOAD)
    if overload is not None:
        if overload not in (b"\1", b"\2", b"\3"):
            raise Malformed("option 52 is wrong")
        if overload[0] & 1:
            _scan(file, options)
        if overload[0] & 2:
            _scan(sname, options)
    return options


def _scan(area: bytes, options: dict[int, bytes]) -> None:
    """Add the options of one field. What leaves it never meets its end."""
    at = 0
    while at < len(area):
        code = area[at]
        if code == _END:
            return
        at += 1
        if code == _PAD:
            continue
        if at == len(area):
            break
        end = at + 1 + area[at]
        options[code] = options.get(code, b"") + area[at + 1 : end]
        at = end
    raise Malformed("cut short: its options do not end")


def _parse(options: dict[int, bytes], address: bytes) -> Reply:
    kind = options.get(_TYPE, b"")
    if len(kind) != 1 or kind[0] not in (OFFER, ACK, NAK):
        raise Malformed("not an offer, an ACK or a NAK")
    reply = Reply(kind[0])
    reply.server = options.get(_SERVER, b"")
    if len(reply.server) != 4 or not is_host(reply.server):
        raise Malformed("the server does not say who it is")
    if reply.kind == NAK:
        return reply
    if not is_host(address):
        raise Malformed("the address is none")
    reply.address = address
    lease = options.get(_LEASE)
    if lease is not None:
        if len(lease) != 4:
            raise Malformed("the lease's duration is wrong")
        seconds = int.from_bytes(lease, "big")
        reply.lease = None if seconds == _INFINITE else seconds
    for code, name, parse in _OPTIONAL:
        value = options.get(code)
        if value is not None:
            try:
                setattr(reply, name, parse(value))
            except Malformed:
                reply.ignored.append(code)
    if reply.prefix < 0:
        reply.prefix = 8 if address[0] < 128 else 16 if address[0] < 192 else 24
    return reply


def _number(value: bytes, size: int) -> int:
    if len(value) != size:
        raise Malformed
    return int.from_bytes(value, "big")


def _prefix(value: bytes) -> int:
    """A mask that is ones and then zeros; one without ones would make the whole world local."""
    host = _number(value, 4) ^ _INFINITE
    if host & host + 1 or host == _INFINITE:
        raise Malformed
    return 32 - host.bit_length()


def _addresses(value: bytes) -> list[bytes]:
    if not value or len(value) % 4:
        raise Malformed
    return [address for at in range(0, len(value), 4) if is_host(address := value[at : at + 4])]


def _router(value: bytes) -> list[Route]:
    """The first usable router as the default route; without one there is no route, least of all one through 0.0.0.0."""
    return [(ANY, 0, router) for router in _addresses(value)[:1]]


def _routes(value: bytes) -> list[Route]:
    """RFC 3442: length of the prefix, as many bytes of the destination as that needs, gateway."""
    routes = []
    at = 0
    while at < len(value):
        prefix = value[at]
        size = (prefix + 7) // 8
        route = value[at + 1 : at + 5 + size]
        if prefix > 32 or len(route) != size + 4:
            raise Malformed
        destination = int.from_bytes(route[:size].ljust(4, b"\0"), "big") & mask_of(prefix)
        gateway = route[size:]
        if gateway != ANY and not is_host(gateway):
            raise Malformed
        routes.append((destination.to_bytes(4, "big"), prefix, gateway))
        at += 5 + size
    if not routes:
        raise Malformed
    return routes


def _text(value: bytes) -> str:
    """A name of letters that mean nothing to whatever reads files of names."""
    if not 0 < len(value) <= _LONGEST_NAME or not _IN_NAMES.issuperset(value):
        raise Malformed
    return str(value, "ascii")


def _host(value: bytes) -> str:
    name = _text(value.rstrip(b"\0"))
    if len(name) > _LONGEST_HOST or name[0] in "-.":
        raise Malformed
    return name


def _domains(value: bytes) -> list[str]:
    """Option 15 is one domain; servers put several there, with blanks between, and a NUL behind."""
    return [_text(word) for word in value.rstrip(b"\0").split(b" ") if word]


def _search(value: bytes) -> list[str]:
    """Names as in DNS (RFC 1035, 4.1.4), compressed within the option."""
    names = []
    at = 0
    try:
        while at < len(value):
            labels, at = _labels(value, at)
            if labels:
                names.append(_text(b".".join(labels)))
    except IndexError:
        raise Malformed from None
    if not names:
        raise Malformed
    return names


def _labels(value: bytes, at: int) -> tuple[list[bytes], int]:
    """The labels of the name at `at`, and where the next one begins. Pointers lead back only, so there are no loops.

    :raise IndexError: the name leaves the option.
    """
    labels: list[bytes] = []
    limit, after, size = at, -1, 0
    while True:
        length = value[at]
        if length == 0:
            return labels, at + 1 if after < 0 else after
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | value[at + 1]
            if target >= limit:
                raise Malformed
            after = at + 2 if after < 0 else after
            at = limit = target
            continue
        label = value[at + 1 : at + 1 + length]
        size += length + 1
        if length > _LONGEST_LABEL or len(label) != length or size > _LONGEST_NAME:
            raise Malformed
        labels.append(label)
        at += 1 + length


def _u16(value: bytes) -> int:
    return _number(value, 2)


def _u32(value: bytes) -> int:
    return _number(value, 4)


# What comes later wins: 121 over 3 (RFC 3442), 119 over 15; a malformed one does not.
_OPTIONAL: tuple[tuple[int, str, Callable[[bytes], Any]], ...] = (
    (_MASK, "prefix", _prefix),
    (_ROUTER, "routes", _router),
    (_SERVERS, "servers", _addresses),
    (_HOST, "hostname", _host),
    (_DOMAIN, "search", _domains),
    (_MTU, "mtu", _u16),
    (_RENEW, "renew", _u32),
    (_REBIND, "rebind", _u32),
    (_SEARCH, "search", _search),
    (_ROUTES, "routes", _routes),
)
