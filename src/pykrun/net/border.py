"""What may leave the guest: nothing that begins a conversation with the host itself.

passt connects to whatever address a packet names. Asked not to map its gateway's address to the host's loopback, it
still takes a packet to 127.0.0.1, ::1, ::ffff:127.0.0.1, 0.0.0.0 or :: from a guest that makes one, and connects to the
services that trust whoever is on this host (passt of 2023; later ones refuse some of these). So each frame is looked at
here, on a copy that the guest cannot change any more.

The gateway stands for the host: who reaches a published port from the host's loopback seems to come from there. So
answers to the gateway may leave: segments of TCP that open nothing, and datagrams back to a port that one came from. Of
its own services there are DHCP, and DNS where the host's resolver is on its loopback.

passt looks at the same bytes: neither reassembles fragments, and it drops a frame whose type it does not know.
"""

from __future__ import annotations

from socket import AF_INET6, inet_aton, inet_pton

from pykrun.net.addresses import GATEWAY4, GATEWAY6

_IPV4, _ARP, _IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
_ETHERNET, _IPV4_SIZE, _IPV6_SIZE = 14, 20, 40
_TCP, _UDP, _ICMPV6 = 6, 17, 58
_SYN, _ACK = 0x02, 0x10
_GATEWAY4 = inet_aton(GATEWAY4)
_GATEWAY6 = inet_pton(AF_INET6, GATEWAY6)
_LOOPBACK4, _UNSPECIFIED4 = 127, 0
_NO_HOST6 = bytes(10)
"""What ::, ::1, and the IPv4 addresses in IPv6's clothes (::a.b.c.d, ::ffff:a.b.c.d) begin with."""
_DNS, _DHCP = b"\x00\x35", b"\x00\x43"  # UDP ports of the gateway, over IPv4
_MOST_ASKED = 4096


class OpenBorder:
    """Lets everything pass: the other side is not passt, and whoever plugged the card in has chosen it."""

    asked = False

    def note(self, frame: memoryview) -> None:
        """Nobody asks."""

    def may_leave(self, head: bytes) -> bool:
        """It may."""
        return True


class Border:
    """Judges frames.

    :param dns: the gateway hands on DNS; otherwise passt may take its port 53 for the host's.
    :param asked: datagrams may come from the host's loopback (a UDP port is published): tell of each frame by `note`.
    """

    def __init__(self, *, dns: bool = False, asked: bool = False) -> None:
        self.asked = asked
        self._served = (_DHCP, _DNS) if dns else (_DHCP,)
        self._askers: dict[bytes, None] = {}  # the host's port, the guest's, the first byte of the gateway's address

    def note(self, frame: memoryview) -> None:
        """Remember the sender of a datagram to the guest that seems to come from the gateway."""
        kind = frame[12:14]
        if kind == _IPV4 and len(frame) >= 38 and frame[23] == _UDP and frame[26:30] == _GATEWAY4:
            asker = bytes(frame[34:38]) + _GATEWAY4[:1]
        elif kind == _IPV6 and len(frame) >= 58 and frame[20] == _UDP and frame[22:38] == _GATEWAY6:
            asker = bytes(frame[54:58]) + _GATEWAY6[:1]
        else:
            return
        self._askers.pop(asker, None)
        self._askers[asker] = None  # the last one now
        if len(self._askers) > _MOST_ASKED:
            del self._askers[next(iter(self._askers))]

    def may_leave(self, head: bytes) -> bool:
        """Judge a frame by its first bytes (`pykrun.virtio.net.HEAD` of them, or all)."""
        kind = head[12:14]
        if kind == _IPV4:
            if len(head) < _ETHERNET + _IPV4_SIZE or head[30] in (_LOOPBACK4, _UNSPECIFIED4):
                return False
            if head[30:34] != _GATEWAY4:
                return True
            start = _ETHERNET + 4 * (head[14] & 15)
            served = head[23] == _UDP and head[start + 2 : start + 4] in self._served
            return served or self._is_answer(head[23], head[start : start + _IPV4_SIZE], _GATEWAY4)
        if kind == _IPV6:
            if len(head) < _ETHERNET + _IPV6_SIZE or head.startswith(_NO_HOST6, 38):
                return False
            if head[38:54] != _GATEWAY6 or head[20] == _ICMPV6:
                return True
            return self._is_answer(head[20], head[_ETHERNET + _IPV6_SIZE :], _GATEWAY6)
        return kind == _ARP

    def _is_answer(self, protocol: int, header: bytes, gateway: bytes) -> bool:
        """Whether a packet to the gateway goes on with what somebody on the host began."""
        if protocol == _TCP:
            return len(header) > 13 and header[13] & (_SYN | _ACK) != _SYN
        return protocol == _UDP and header[2:4] + header[0:2] + gateway[:1] in self._askers
