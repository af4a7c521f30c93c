"""Addresses, routes and the MTU over NETLINK_ROUTE (rtnetlink(7)); the kernel acknowledges each message."""

from __future__ import annotations

import _socket
import errno
import posix
from _struct import Struct

from krun_init.dhcp.packet import ANY, mask_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.dhcp.packet import Route

# uapi/linux/netlink.h, rtnetlink.h, if_addr.h, if_link.h
_HEADER = Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = Struct("=HH")  # length, type
_ADDRESS = Struct("=4BI")  # family, prefix, flags, scope, index
_ROUTE = Struct("=8BI")  # family, lengths of destination and source, tos, table, protocol, scope, type; flags
_LINK = Struct("=BxHiII")  # family, type, index, flags, change
_ERROR = Struct("=i")

_NEW_LINK, _NEW_ADDRESS, _DELETE_ADDRESS, _NEW_ROUTE, _DELETE_ROUTE = 16, 20, 21, 24, 25
_IS_ERROR = 2
_ACKNOWLEDGED, _CREATE = 0x5, 0x600  # REQUEST | ACK; CREATE | EXCL
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_IFLA_MTU = 4
_INET = 2
_MAIN_TABLE, _BOOT, _EVERYWHERE, _ON_LINK_SCOPE, _UNICAST, _ON_LINK = 254, 3, 0, 253, 1, 4


class Netlink:
    """Changes one interface; to be closed. Every call raises OSError when the kernel refuses."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._sequence = 0
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, _socket.NETLINK_ROUTE)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def add_address(self, address: bytes, prefix: int) -> None:
        """Give the interface an address; there already is fine."""
        self._add(_NEW_ADDRESS, self._address(address, prefix))

    def delete_address(self, address: bytes, prefix: int) -> None:
        """Take it away; the kernel takes the routes that need it away."""
        self._request(_DELETE_ADDRESS, 0, self._address(address, prefix))

    def add_route(self, route: Route) -> None:
        """Add a route; there already, to wherever, is fine: whoever set it knew why.

        A gateway that is not in the network of the address is looked for on the link itself.
        """
        try:
            self._add(_NEW_ROUTE, self._route(route, 0))
        except OSError as error:
            if error.errno != errno.ENETUNREACH or route[2] == ANY:
                raise
            self._add(_NEW_ROUTE, self._route(route, _ON_LINK))

    def delete_route(self, route: Route) -> None:
        """Take a route away."""
        self._request(_DELETE_ROUTE, 0, self._route(route, 0))

    def set_mtu(self, size: int) -> None:
        """Set the largest packet of the interface, in bytes."""
        body = _LINK.pack(0, 0, self._index, 0, 0) + _attribute(_IFLA_MTU, size.to_bytes(4, "little"))
        self._request(_NEW_LINK, 0, body)

    def _address(self, address: bytes, prefix: int) -> bytes:
        body = _ADDRESS.pack(_INET, prefix, 0, _EVERYWHERE, self._index)
        body += _attribute(_IFA_LOCAL, address) + _attribute(_IFA_ADDRESS, address)
        if prefix < 31:  # RFC 3021: smaller networks have none
            last = int.from_bytes(address, "big") | mask_of(prefix) ^ 0xFFFFFFFF
            body += _attribute(_IFA_BROADCAST, last.to_bytes(4, "big"))
        return body

    def _route(self, route: Route, flags: int) -> bytes:
        destination, prefix, gateway = route
        scope = _ON_LINK_SCOPE if gateway == ANY else _EVERYWHERE
        body = _ROUTE.pack(_INET, prefix, 0, 0, _MAIN_TABLE, _BOOT, scope, _UNICAST, flags)
        body += _attribute(_RTA_OIF, self._index.to_bytes(4, "little"))
        if prefix:
            body += _attribute(_RTA_DST, destination)
        if gateway != ANY:
            body += _attribute(_RTA_GATEWAY, gateway)
        return body

    def _add(self, kind: int, body: bytes) -> None:
        try:
            self._request(kind, _CREATE, body)
        except FileExistsError:
            pass

    def _request(self, kind: int, flags: int, body: bytes) -> None:
        """Send a message and take its acknowledgement, which is there by then."""
        self._sequence += 1
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, kind, flags | _ACKNOWLEDGED, self._sequence, 0) + body)
        while True:
            answer = self._socket.recv(4096, _socket.MSG_DONTWAIT)
            _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            if kind == _IS_ERROR and sequence == self._sequence:
                number = -_ERROR.unpack_from(answer, _HEADER.size)[0]
                if number:
                    raise OSError(number, posix.strerror(number))
                return


def _attribute(kind: int, value: bytes) -> bytes:
    """All values here are four bytes, so nothing needs padding."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
