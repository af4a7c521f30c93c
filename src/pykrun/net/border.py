"""What may leave the guest: nothing that is meant for the host itself.

passt connects to whatever address a packet names. Asked not to map its gateway's address to the host's loopback, it
still takes a packet to 127.0.0.1, ::1, ::ffff:127.0.0.1, 0.0.0.0 or :: from a guest that makes one, and connects to the
services that trust whoever is on this host (passt of 2023; later ones refuse some of these). So each frame is looked at
here, on a copy that the guest cannot change any more.

passt looks at the same bytes: neither reassembles fragments, and it drops a frame whose type it does not know.
"""

from __future__ import annotations

from socket import AF_INET6, inet_aton, inet_pton

from pykrun.net.addresses import GATEWAY4, GATEWAY6

_IPV4, _ARP, _IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
_ETHERNET, _IPV4_SIZE, _IPV6_SIZE = 14, 20, 40
_UDP, _ICMPV6 = 17, 58
_GATEWAY4 = inet_aton(GATEWAY4)
_GATEWAY6 = inet_pton(AF_INET6, GATEWAY6)
_LOOPBACK4, _UNSPECIFIED4 = 127, 0
_NO_HOST6 = bytes(10)
"""What ::, ::1, and the IPv4 addresses in IPv6's clothes (::a.b.c.d, ::ffff:a.b.c.d) begin with."""
_SERVED = (b"\x00\x35", b"\x00\x43")
"""UDP ports of the gateway: it answers DHCP, and hands on DNS where the host's own resolver is on its loopback."""


def may_leave(head: bytes) -> bool:
    """Judge a frame by its first bytes (`pykrun.virtio.net.HEAD` of them, or all)."""
    kind = head[12:14]
    if kind == _IPV4:
        return len(head) >= _ETHERNET + _IPV4_SIZE and _ipv4(head)
    if kind == _IPV6:
        return len(head) >= _ETHERNET + _IPV6_SIZE and _ipv6(head)
    return kind == _ARP


def _ipv4(head: bytes) -> bool:
    if head[30] in (_LOOPBACK4, _UNSPECIFIED4):
        return False
    if head[30:34] != _GATEWAY4:
        return True
    port = _ETHERNET + 4 * (head[14] & 15) + 2
    return head[23] == _UDP and head[port : port + 2] in _SERVED


def _ipv6(head: bytes) -> bool:
    if head.startswith(_NO_HOST6, 38):
        return False
    return head[38:54] != _GATEWAY6 or head[20] == _ICMPV6
