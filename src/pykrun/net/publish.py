"""Ports of this host that lead into the guest: `[ADDR:]HOST:GUEST[/udp]`."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Sequence

from pykrun.errors import UsageError
from pykrun.record import record

DEFAULT_ADDRESS = "127.0.0.1"
"""Where a port is published when nobody says where: this host alone reaches it."""

_FORM = re.compile(r"(?:(\[[^\]]*\]|[^:\[\]]*):)?([0-9-]+):([0-9-]+)(?:/(tcp|udp))?", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_HINT = "[ADDR:]HOST:GUEST[/udp], as in 8080:80, 0.0.0.0:8080:80, [::1]:8053:53/udp or 8000-8009:8000-8009"
MAX_PORTS = 1024
"""Of one range: each is a socket."""


@record(frozen=True, slots=True)
class Publish:
    """Ports of one address of this host that lead to ports of the guest.

    :ivar address: an IPv4 or IPv6 address, without brackets.
    :ivar host: the first port here.
    :ivar guest: the first port there.
    :ivar count: how many, in a row.
    :ivar protocol: `tcp` or `udp`.
    """

    address: str
    host: int
    guest: int
    count: int = 1
    protocol: str = "tcp"

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    @property
    def text(self) -> str:
        """The host's side for people: `[::1]:8080/tcp`."""
        return self._name(f"{self.host}-{self.host + self.count - 1}" if self.count > 1 else str(self.host))

    def _name(self, ports: object) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{ports}/{self.protocol}"

    def check(self) -> None:
        """Make sure that the ports can be taken.

        Asked by taking and releasing them: passt goes on when some of several cannot be bound, and shares a UDP port
        that another passt has.

        :raise UsageError: one is in use, is not ours to use, or the address is none of this host's.
        """
        kind = socket.SOCK_DGRAM if self.protocol == "udp" else socket.SOCK_STREAM
        for port in range(self.host, self.host + self.count):
            try:
                with socket.socket(self.family, kind) as probe:
                    if kind == socket.SOCK_STREAM:  # connections that have just ended are no hindrance
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if self.family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind((self.address, port))
            except OSError as error:
                raise UsageError(f"cannot publish {self._name(port)}: {_reason(error)}", _advice(error)) from None


def parse(text: str, option: str = "--publish") -> Publish:
    """Understand `[ADDR:]HOST:GUEST[/udp]`, HOST and GUEST being ports or ranges of as many.

    :raise UsageError: it is something else.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"{option} wants {_HINT}, not {text!r}")
    host, count = _ports(option, text, match[2])
    guest, guests = _ports(option, text, match[3])
    if count != guests:
        raise UsageError(f"{option} {text!r}: {count} ports here, {guests} in the guest")
    if count > MAX_PORTS:
        raise UsageError(f"{option} {text!r}: {count} ports at once; at most {MAX_PORTS}")
    return Publish(_address(option, text, match[1]), host, guest, count, match[4] or "tcp")


def check_all(wanted: Sequence[Publish]) -> None:
    """Make sure that all ports can be taken, and that none is wanted twice.

    :raise UsageError: not so.
    """
    taken: set[tuple[str, str, int]] = set()
    for publish in wanted:
        ports = {(publish.protocol, publish.address, publish.host + index) for index in range(publish.count)}
        if ports & taken:
            raise UsageError(f"{publish.text} is published twice")
        taken |= ports
        publish.check()


def _ports(option: str, text: str, ports: str) -> tuple[int, int]:
    """(First port, number of ports) of `80` or `80-89`."""
    match = _RANGE.fullmatch(ports)
    first = int(match[1]) if match else 0
    last = int(match[2] or match[1]) if match else 0
    if not 1 <= first <= last <= 65535:
        raise UsageError(f"{option} {text!r}: {ports} is no port from 1 to 65535, and no range of them")
    return first, last - first + 1


def _address(option: str, text: str, word: str | None) -> str:
    if word is None:
        return DEFAULT_ADDRESS
    bracketed = word.startswith("[")
    family = socket.AF_INET6 if bracketed else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, word.strip("[]")))
    except OSError:
        kind = "IPv6" if bracketed else "IPv4"
        hint = "an IPv4 address, or an IPv6 address in brackets; 0.0.0.0 is every IPv4 address of this host"
        raise UsageError(f"{option} {text!r}: {word!r} is no {kind} address", hint) from None


def _reason(error: OSError) -> str:
    return {
        errno.EADDRINUSE: "the port is in use",
        errno.EACCES: "ports below 1024 are root's",
        errno.EADDRNOTAVAIL: "this host does not have the address",
        errno.EAFNOSUPPORT: "this host does not have IPv6",
    }.get(error.errno or 0, error.strerror or str(error))


def _advice(error: OSError) -> str:
    return {
        errno.EADDRINUSE: "take another, or end the program that has it",
        errno.EACCES: "take a higher one, or lower net.ipv4.ip_unprivileged_port_start",
    }.get(error.errno or 0, "")
