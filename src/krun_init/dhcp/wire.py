"""The sockets of one exchange with the servers.

Everything is sent by a UDP socket. Before the interface has an address, that one does not hear answers that are sent to
the offered address (some servers ignore the broadcast flag), nor any at all under a strict reverse-path filter. So then
a packet socket listens, which sees datagrams before the kernel judges them.
"""

from __future__ import annotations

import _socket
import select
import time
from _struct import Struct

from krun_init import _linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.dhcp.link import Link

BROADCAST = "255.255.255.255"
_SERVER_PORT, _CLIENT_PORT = 67, 68
_SIZE = 2048  # room for more than is taken: an overlong message is to be seen as one
_LONGEST_WAIT = 1 << 30  # milliseconds
_IPV4, _UDP = 0x0800, 17

# Classic BPF (linux/filter.h): code, jump if true, jump if false, operand. UDP to port 68 that is no later fragment.
_FILTER = b"".join(
    Struct("=HBBI").pack(*step)
    for step in (
        (0x30, 0, 0, 9),  # ldb [9]: protocol
        (0x15, 0, 6, _UDP),
        (0x28, 0, 0, 6),  # ldh [6]: flags and offset
        (0x45, 4, 0, 0x1FFF),
        (0xB1, 0, 0, 0),  # ldxb 4*([0]&0xf): length of the header
        (0x48, 0, 0, 2),  # ldh [x+2]: port
        (0x15, 0, 1, _CLIENT_PORT),
        (0x06, 0, 0, 0xFFFF),
        (0x06, 0, 0, 0),
    )
)


class Wire:
    """Sends and receives messages on one interface; to be closed.

    :param addressed: the interface has the address that answers go to: no packet socket then.
    :raise OSError: the interface is gone, or another client has the port to itself.
    """

    def __init__(self, link: Link, addressed: bool) -> None:
        self._sender = _open_udp(link)
        self._packets: _socket.socket | None = None
        try:
            self._packets = None if addressed else _open_packets(link)
        except OSError:
            pass  # a kernel without packet sockets: most servers are heard all the same
        self._listener = self._packets or self._sender
        self._poll = select.poll()
        self._poll.register(self._listener.fileno(), select.POLLIN)

    def descriptors(self) -> list[int]:
        """What must stay open for it to go on in a child process."""
        return [self._sender.fileno(), self._listener.fileno()]

    def close(self) -> None:
        """Close the sockets; again is fine."""
        self._sender.close()
        self._listener.close()

    def send(self, message: bytes, server: str = BROADCAST) -> None:
        """Send to a server or to all. A link that is not ready yet loses it, as any network may."""
        try:
            self._sender.sendto(message, _socket.MSG_DONTWAIT, (server, _SERVER_PORT))
        except OSError:
            pass

    def receive(self, deadline: float) -> bytes | None:
        """The next datagram to our port; None when there was none by the deadline (of `time.monotonic`)."""
        while True:
            patience = (deadline - time.monotonic()) * 1000
            if patience <= 0:
                return None
            if self._poll.poll(min(patience, _LONGEST_WAIT)):
                try:
                    data = self._listener.recv(_SIZE, _socket.MSG_DONTWAIT)
                except OSError:
                    continue  # the link went down, or the datagram was damaged
                payload = data if self._listener is self._sender else payload_of(data)
                if payload is not None:
                    return payload


def payload_of(data: bytes) -> bytes | None:
    """What a whole UDP datagram to our port carries; None if the bytes hold none.

    Its checksum is not looked at: on a virtual link nobody may have computed it, and the message has better marks.
    """
    header = (data[0] & 0xF) * 4 if data else 0
    if header < 20 or len(data) < header + 8 or data[0] >> 4 != 4 or data[9] != _UDP or data[6] & 0x3F or data[7]:
        return None
    if int.from_bytes(data[header + 2 : header + 4], "big") != _CLIENT_PORT:
        return None
    length = int.from_bytes(data[header + 4 : header + 6], "big")
    end = min(int.from_bytes(data[2:4], "big"), header + length)  # what follows is the padding of a short frame
    return data[header + 8 : end] if 8 <= length <= len(data) - header else None


def _open_udp(link: Link) -> _socket.socket:
    udp = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        for option in (_socket.SO_BROADCAST, _socket.SO_REUSEADDR):
            udp.setsockopt(_socket.SOL_SOCKET, option, 1)
        udp.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, link.name.encode())
        udp.bind(("", _CLIENT_PORT))
    except OSError:
        udp.close()
        raise
    return udp


def _open_packets(link: Link) -> _socket.socket:
    """Nothing arrives before the last line: the filter is in place then."""
    packets = _socket.socket(_socket.AF_PACKET, _socket.SOCK_DGRAM, 0)
    try:
        _linux.attach_filter(packets.fileno(), _FILTER)
        packets.bind((link.name, _IPV4))
    except OSError:
        packets.close()
        raise
    return packets
