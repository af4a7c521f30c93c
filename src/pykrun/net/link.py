"""Network cards that are plugged into something of the caller's: a stream or datagram socket, or a tap device."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from pykrun.errors import UsageError
from pykrun.host.sockets import widen
from pykrun.loop import Loop
from pykrun.net.border import OpenBorder
from pykrun.net.datagrams import Datagrams, FrameSocket, Tap
from pykrun.net.stream import FrameStream
from pykrun.record import record

KINDS = ("stream", "datagram", "tap", "interface")
VFKIT = b"VFKT"
"""The first datagram to a server that speaks vfkit's protocol (gvproxy's `-listen-vfkit`): it learns our address."""


@record(frozen=True, slots=True, kw_only=True)
class Link:
    """A network card of the guest and what it is plugged into. One of `fd` and `path` is given.

    :param kind: `stream`: a Unix stream socket that carries each frame behind its length, four bytes, the highest first
        (passt, socket_vmnet). `datagram`: a Unix datagram socket that carries a frame a datagram (gvproxy).
        `tap`: a tap device; `path` is its name. `interface`: one of this network namespace, `path`, whose hardware and
        IP addresses become the guest's (`pykrun.net.packet`).
    :param fd: a connected socket, which stays the caller's.
    :param path: of a socket that somebody listens to.
    :param mac: the card's address: six bytes, not a multicast one; empty for a random one.
    :param mtu: the largest packet that the guest may send, without the Ethernet header; 68 to 65520. With more than
        1500 passt of 2023 (Debian 12's) may lose its place in a stream.
    :param vfkit: send vfkit's magic word first (a datagram's `path`).
    """

    kind: str
    fd: int | None = None
    path: str | None = None
    mac: bytes = b""
    mtu: int = 1500
    vfkit: bool = False


TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.net.packet import PacketSocket

Cabled = FrameStream | Datagrams


def check(link: Link) -> None:
    """Look at what can be judged without opening anything.

    :raise UsageError: it cannot be.
    """
    if link.kind not in KINDS:
        raise UsageError(f"there is no network link {link.kind!r}", f"there are {', '.join(KINDS)}")
    if (link.fd is None) == (link.path is None) or (link.kind in ("tap", "interface") and link.path is None):
        raise UsageError(f"a {link.kind} link needs a descriptor or a path, one of them; a tap its name")
    if link.mac and (len(link.mac) != 6 or link.mac[0] & 1 or not any(link.mac)):
        raise UsageError(f"{link.mac.hex(':')} is no address of a network card", "six bytes, the first one even")
    if not 68 <= link.mtu <= 65520:
        raise UsageError(f"a network card's MTU is 68 to 65520, not {link.mtu}")
    if link.vfkit and (link.kind != "datagram" or link.path is None):
        raise UsageError("vfkit's magic word is for a datagram link by path")


def address_of(link: Link) -> bytes:
    """Return the card's address: the caller's, or a random one that is locally administered."""
    if link.mac:
        return link.mac
    random = os.urandom(6)
    return bytes((random[0] & 0xFC | 0x02,)) + random[1:]


def plug_in(loop: Loop, link: Link, on_end: Callable[[str], None]) -> Cabled:
    """Connect a link.

    :param on_end: called once when the other side is gone, with a reason or nothing.
    :raise UsageError: there is nothing to connect to, or it is something else.
    """
    check(link)
    if link.kind == "tap":
        return Tap(loop, link.path or "", on_end)
    if link.kind == "interface":
        return _take_interface(loop, link.path or "", on_end)
    connection = _open(link)
    widen(connection)
    if link.kind == "stream":
        return FrameStream(loop, connection, on_end, OpenBorder(), who="the network")
    return FrameSocket(loop, connection, on_end)


def _take_interface(loop: Loop, name: str, on_end: Callable[[str], None]) -> PacketSocket:
    from pykrun.net.packet import PacketSocket, find  # containers alone have it

    found = find()
    if found is None or found.name != name:
        raise UsageError(f"there is no network interface {name!r} with an IPv4 address")
    return PacketSocket(loop, found, on_end)


def _open(link: Link) -> socket.socket:
    kind = socket.SOCK_STREAM if link.kind == "stream" else socket.SOCK_DGRAM
    what = f"a {link.kind} link"
    if link.fd is not None:
        try:
            given = socket.socket(fileno=os.dup(link.fd))
        except OSError as error:
            raise UsageError(f"{what}: descriptor {link.fd} is no socket: {error.strerror}") from None
        if given.family != socket.AF_UNIX or given.type != kind:
            given.close()
            raise UsageError(f"{what}: descriptor {link.fd} is another kind of socket")
        return given
    connection = socket.socket(socket.AF_UNIX, kind)
    try:
        if kind == socket.SOCK_DGRAM:
            connection.bind(b"")  # to be answered: a name of the kernel's, which leaves no file behind
        connection.connect(link.path or "")
        if link.vfkit:
            connection.send(VFKIT, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError as error:
        connection.close()
        raise UsageError(f"{what}: cannot connect to {link.path!r}: {error.strerror}") from None
    return connection
