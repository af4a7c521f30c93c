"""The network as far as init sets it up: the loopback interface. DHCP and the TSI dummy have their place here."""

from __future__ import annotations

import _socket
import fcntl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from krun_init.log import Log

# uapi/linux/sockios.h, if.h: struct ifreq is 16 bytes of name and, for flags, a short.
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFREQ_SIZE = 40


def up(words: Mapping[str, str], log: Log) -> None:
    """Bring `lo` up; a kernel without it is fine."""
    try:
        control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
        try:
            request = b"lo".ljust(16, b"\0") + _IFF_UP.to_bytes(2, "little")
            fcntl.ioctl(control.fileno(), _SIOCSIFFLAGS, request.ljust(_IFREQ_SIZE, b"\0"))
        finally:
            control.close()
    except OSError:
        pass
    if words.get("KRUN_DHCP") == "1":
        log.warn("KRUN_DHCP: not in this build")
