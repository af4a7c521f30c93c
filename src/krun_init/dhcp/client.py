"""The client's side of RFC 2131: a lease is found, and kept by asking again in time."""

from __future__ import annotations

import _socket
import posix
import time

from krun_init.dhcp import packet
from krun_init.dhcp.wire import BROADCAST, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.dhcp.link import Link
    from krun_init.dhcp.packet import Reply

FOREVER = float("inf")

# Seconds. RFC 2131 begins with four, for networks of its day; an answer within a machine takes one to twenty
# milliseconds, and what a link loses while it comes up should not cost the boot its network.
_FIRST_WAIT, _LONGEST_WAIT = 0.03, 16.0
_REQUESTS = 8  # unanswered ones until the server counts as gone
_SHORTEST_LEASE = 5
_LISTEN = 10.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class Lease:
    """An address for a time: what the server said, and on our clock (`time.monotonic`) when to ask the server again
    (T1), when to ask all servers (T2), and when it is over.

    :param asked: when it was asked for; from then on it runs (RFC 2131, 4.4.1).
    """

    __slots__ = ("expires", "rebind", "renew", "reply")

    def __init__(self, reply: Reply, asked: float) -> None:
        self.reply = reply
        self.renew = self.rebind = self.expires = FOREVER
        if reply.lease is None:
            return
        seconds = max(reply.lease, _SHORTEST_LEASE)
        renew, rebind = reply.renew, reply.rebind
        if renew is None or rebind is None or not 0 < renew <= rebind <= seconds:
            renew, rebind = seconds // 2, seconds * 7 // 8
        self.renew, self.rebind, self.expires = asked + renew, asked + rebind, asked + seconds


class Client:
    """Looks for a lease; to be closed.

    :ivar refused: why the last answer that was for us was not taken, "" if there was none.
    :raise OSError: the interface is gone, or another client has the port to itself.
    """

    def __init__(self, link: Link) -> None:
        self.refused = ""
        self._link = link
        self._wire = Wire(link, False)
        self._began = time.monotonic()
        self._refusals = 0
        self._begin(self._began)

    def descriptors(self) -> list[int]:
        """What must stay open for it to go on in a child process."""
        return self._wire.descriptors()

    def close(self) -> None:
        """Close the sockets; again is fine."""
        self._wire.close()

    def acquire(self, deadline: float) -> Lease | None:
        """A lease, or None when there was none by the deadline (of `time.monotonic`): it may be called again then, and
        goes on where it was."""
        while True:
            now = time.monotonic()
            if now >= deadline:
                return None
            if now >= self._due:
                self._ask(now)
            data = self._wire.receive(min(deadline, self._due))
            lease = self._hear(data) if data is not None else None
            if lease is not None:
                return lease

    def _begin(self, due: float) -> None:
        """Look for servers from then on, in an exchange of its own: answers to an earlier one are void."""
        self._xid = new_xid()
        self._offer: Reply | None = None
        self._expect(due)

    def _expect(self, due: float) -> None:
        self._due = due
        self._wait = _FIRST_WAIT
        self._sent = 0

    def _ask(self, now: float) -> None:
        if self._offer is not None and self._sent >= _REQUESTS:
            self._begin(now)
        seconds = int(now - self._began)
        if self._offer is None:
            message = packet.encode(packet.DISCOVER, self._xid, self._link.mac, seconds)
        else:
            asked_for, server = self._offer.address, self._offer.server
            message = packet.encode(
                packet.REQUEST, self._xid, self._link.mac, seconds, requested=asked_for, server=server
            )
        self._wire.send(message)
        self._asked = now
        self._sent += 1
        self._due = now + self._wait * (0.875 + self._xid[0] / 1024)  # all machines of a host that boot at once
        self._wait = min(self._wait * 2, _LONGEST_WAIT)

    def _hear(self, data: bytes) -> Lease | None:
        try:
            reply = packet.decode(data, self._xid, self._link.mac)
        except packet.Malformed as error:
            self.refused = f"an answer was {error}"
            return None
        if reply is None:
            return None
        if self._offer is None:
            if reply.kind == packet.ACK:  # rapid commit
                return Lease(reply, self._asked)
            if reply.kind == packet.OFFER:
                self._offer = reply
                self._expect(time.monotonic())
        elif reply.server == self._offer.server:
            if reply.kind == packet.ACK:
                return Lease(reply, self._asked)
            if reply.kind == packet.NAK:
                self.refused = f"{text_of(reply.server)} offered {text_of(self._offer.address)} and then refused it"
                self._refusals += 1
                self._begin(time.monotonic() + min(_FIRST_WAIT * 2 ** min(self._refusals, 10), _LONGEST_WAIT))
        return None


def renew(link: Link, lease: Lease) -> Lease | None:
    """Ask for more time, from T1 on; the new lease, or None when the address must not be used any more.

    From T1 on the server is asked, from T2 on all are, until the lease is over (RFC 2131, 4.4.5). There is a socket
    only for as long as an answer may come, so that another client of the guest can have the port.

    :raise OSError: the interface is gone, or another client has the port to itself.
    """
    xid = new_xid()
    _sleep_until(lease.renew)
    while True:
        now = time.monotonic()
        if now >= lease.expires:
            return None
        to_all = now >= lease.rebind
        end = lease.expires if to_all else lease.rebind
        reply = _ask_once(link, lease, xid, to_all, min(now + _LISTEN, end))
        if reply is not None:
            return Lease(reply, now) if reply.kind == packet.ACK else None
        span = lease.expires - lease.renew
        pause = max((end - now) / 2, min(max(span / 16, _SHORTEST_PAUSE), _LONGEST_PAUSE))
        _sleep_until(min(now + pause, end))


def _ask_once(link: Link, lease: Lease, xid: bytes, to_all: bool, deadline: float) -> Reply | None:
    wire = Wire(link, True)
    try:
        message = packet.encode(packet.REQUEST, xid, link.mac, own=lease.reply.address)
        wire.send(message, BROADCAST if to_all else text_of(lease.reply.server))
        while True:
            data = wire.receive(deadline)
            if data is None:
                return None
            try:
                reply = packet.decode(data, xid, link.mac)
            except packet.Malformed:
                continue
            if reply is not None and reply.kind != packet.OFFER and (to_all or reply.server == lease.reply.server):
                return reply
    finally:
        wire.close()


def _sleep_until(moment: float) -> None:
    seconds = moment - time.monotonic()
    if seconds > 0:
        time.sleep(seconds)


def new_xid() -> bytes:
    """What tells our exchange from all others. Never waits for the kernel to have randomness."""
    try:
        return posix.getrandom(4, posix.GRND_NONBLOCK)
    except OSError:
        return (time.monotonic_ns() ^ time.time_ns()).to_bytes(9, "little", signed=True)[:4]


def text_of(address: bytes) -> str:
    """An address as people write it."""
    return _socket.inet_ntoa(address)
