"""The loopback interface of a FreeBSD guest; DHCP is Linux's."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.freebsd_system import System

_NAME = b"lo0".ljust(16, b"\0")  # net/if.h, IFNAMSIZ
_IFREQ_SIZE = 32


def up(system: System) -> None:
    """Bring `lo0` up with 127.0.0.1/8, which FreeBSD's does not have by itself; a kernel without it is fine."""
    flags = _NAME + system.IFF_UP.to_bytes(2, "little")  # the first of the two words of flags
    # netinet/in_var.h, struct in_aliasreq: name, address, broadcast address, mask, number of a CARP group
    alias = _NAME + _address(127, 0, 0, 1) + bytes(16) + _address(255, 0, 0, 0) + bytes(4)
    for code, request in ((system.SIOCSIFFLAGS, flags.ljust(_IFREQ_SIZE, b"\0")), (system.SIOCAIFADDR, alias)):
        try:
            system.socket_ioctl(code, request)
        except OSError:
            pass


def _address(*octets: int) -> bytes:
    """netinet/in.h, struct sockaddr_in: its length, AF_INET, no port, the address."""
    return bytes((16, 2, 0, 0, *octets)).ljust(16, b"\0")
