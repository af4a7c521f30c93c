"""What this host has of a network: where its packets go, and who resolves its names."""

from __future__ import annotations

from pykrun.record import record

_RESOLVERS = "/etc/resolv.conf"
_ROUTES4, _ROUTES6 = "/proc/net/route", "/proc/net/ipv6_route"
_UP, _REJECT = 0x1, 0x200  # RTF_..., <linux/route.h>
_ANY4, _ANY6 = "0" * 8, "0" * 32


@record(frozen=True, slots=True)
class Surroundings:
    """What passt has to be told.

    :ivar ipv4: the interface with the default route, empty where there is none; likewise `ipv6`.
    :ivar local_resolver: a resolver of this host listens on its IPv4 loopback, as systemd-resolved does (127.0.0.53).
    """

    ipv4: str = ""
    ipv6: str = ""
    local_resolver: bool = False


def look() -> Surroundings:
    """Look at this host, as it is now."""
    ipv4 = ipv6 = ""
    for words in _lines(_ROUTES4)[1:]:  # Iface Destination Gateway Flags RefCnt Use Metric Mask ...
        if words[1] == _ANY4 and words[7] == _ANY4 and _usable(words[3]):
            ipv4 = ipv4 or words[0]
    for words in _lines(_ROUTES6):  # destination length source length next-hop metric references use flags interface
        if words[0] == _ANY6 and words[1] == "00" and words[9] != "lo" and _usable(words[8]):
            ipv6 = ipv6 or words[9]
    servers = [words[1] for words in _lines(_RESOLVERS) if words[0] == "nameserver" and words[1:]]
    return Surroundings(ipv4, ipv6, any(server.startswith("127.") for server in servers))


def _usable(flags: str) -> bool:
    return int(flags, 16) & (_UP | _REJECT) == _UP


def _lines(path: str) -> list[list[str]]:
    """The words of each line that has some; nothing when the file is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [words for line in file if (words := line.split())]
    except OSError:
        return []
