"""The interface that is to be configured."""

from __future__ import annotations

import _socket
import errno
import fcntl

# uapi/linux/sockios.h, if.h, if_arp.h: struct ifreq is 16 bytes of name and a union, here read from its start.
_GET_FLAGS, _SET_FLAGS, _GET_ADDRESS, _GET_INDEX = 0x8913, 0x8914, 0x8927, 0x8933
_NAME_SIZE, _REQUEST_SIZE = 16, 40
_UP = 0x1
_ETHERNET = 1


class Link:
    """An Ethernet interface: its name, its index, and its hardware address of six bytes."""

    __slots__ = ("index", "mac", "name")

    def __init__(self, name: str, index: int, mac: bytes) -> None:
        self.name = name
        self.index = index
        self.mac = mac


def bring_up(name: str) -> Link:
    """Bring the interface up and tell what it is.

    :raise OSError: there is none of that name (ENODEV), it is no Ethernet (EPFNOSUPPORT), or it cannot be brought up.
    """
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        fd = control.fileno()
        flags = int.from_bytes(_ask(fd, _GET_FLAGS, name)[:2], "little")
        if not flags & _UP:
            _ask(fd, _SET_FLAGS, name, (flags | _UP).to_bytes(2, "little"))
        address = _ask(fd, _GET_ADDRESS, name)
        index = int.from_bytes(_ask(fd, _GET_INDEX, name)[:4], "little")
    finally:
        control.close()
    if int.from_bytes(address[:2], "little") != _ETHERNET:
        raise OSError(errno.EPFNOSUPPORT, "not an Ethernet interface")
    return Link(name, index, address[2:8])


def _ask(fd: int, request: int, name: str, value: bytes = b"") -> bytes:
    """One ioctl; returns what it left in the union."""
    query = name.encode().ljust(_NAME_SIZE, b"\0") + value
    return fcntl.ioctl(fd, request, query.ljust(_REQUEST_SIZE, b"\0"))[_NAME_SIZE:]
