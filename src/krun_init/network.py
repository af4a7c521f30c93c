"""The network as far as init sets it up: the loopback interface, DHCP on eth0, the dummy interface of TSI."""

from __future__ import annotations

import _socket
import errno
import fcntl
import posix
import time

from krun_init import files
from krun_init.dhcp import apply, link
from krun_init.dhcp.client import FOREVER, Client
from krun_init.dhcp.keeper import Keeper
from krun_init.dhcp.netlink import Netlink
from krun_init.dhcp.packet import ACK, Reply
from krun_init.errors import reason_of
from krun_init.log import INFO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from krun_init.dhcp.link import Link
    from krun_init.log import Log
    from krun_init.places import Places
    from krun_init.start import Address, Start

INTERFACE = "eth0"
FOREGROUND = 0.1
"""Seconds that the boot waits for a lease. A server of the host's takes one to twenty milliseconds; where there is none
(an IPv6 network, say), nobody should wait for long."""

# uapi/linux/sockios.h, if.h: struct ifreq is 16 bytes of name and, for flags, a short.
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFREQ_SIZE = 40

_DUMMY = "dummy0"
_DUMMY_ADDRESS, _DUMMY_PREFIX = bytes((203, 0, 113, 1)), 24
_TSI = b"tsi_hijack"


class Network:
    """What the rest of the boot must know: the host name that a DHCP server offers, and what has to go on."""

    hostname: str | None = None
    keeper: Keeper | None = None


def up(words: Mapping[str, str], start: Start, places: Places, log: Log) -> Network:
    """Set the network up; nothing of it is ever fatal."""
    network = Network()
    _bring_up_loopback()
    if start.keep_resolver:
        places.resolver = ""
    if start.network is not None:
        _set(start.network, places, log)
    elif start.dhcp or words.get("KRUN_DHCP") == "1":
        _configure(network, start.dhcp, places, log)
    if _exists(_DUMMY, places):
        _set_up_dummy(places, log)
    return network


def _bring_up_loopback() -> None:
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


def _exists(name: str, places: Places) -> bool:
    """Asked of sysfs: an ioctl for an interface that is not there makes the kernel start modprobe."""
    return posix.access(f"{places.interfaces}/{name}", posix.F_OK)


def _set(wanted: Address, places: Places, log: Log) -> None:
    """What the host says eth0 is."""
    told = Reply(ACK)
    told.address, told.prefix, told.routes, told.mtu = wanted.address, wanted.prefix, wanted.routes, wanted.mtu
    try:
        eth0 = _find(places.patience, places)
        trouble = [f"there is no {INTERFACE}"] if eth0 is None else apply.install(eth0, told, None, places)
    except OSError as error:
        trouble = [reason_of(error)]
    if trouble:
        log.warn(f"network: {'; '.join(trouble)}")


# -- DHCP ----------------------------------------------------------------------------------------------------------


def _configure(network: Network, promised: bool, places: Places, log: Log) -> None:
    """DHCP on eth0, if there is one; its driver is waited for if the host promises one."""
    try:
        eth0 = _find(places.patience if promised else 0.0, places)
        if eth0 is not None:
            _acquire(network, eth0, places, log)
        elif promised:
            log.warn(f"DHCP: there is no {INTERFACE}")
    except OSError as error:
        log.warn(f"DHCP on {INTERFACE}: {reason_of(error)}")


def _find(patience: float, places: Places) -> Link | None:
    """The interface, up. Sysfs shows one a moment before ioctls know it."""
    deadline = time.monotonic() + patience
    while True:
        if _exists(INTERFACE, places):
            try:
                return link.bring_up(INTERFACE)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.002)


def _acquire(network: Network, eth0: Link, places: Places, log: Log) -> None:
    """A lease within the boot, applied, if that is possible.

    :raise OSError: this machine cannot have one.
    """
    client = Client(eth0)
    lease = client.acquire(time.monotonic() + FOREGROUND)
    if lease is not None:
        client.close()
        trouble = apply.install(eth0, lease.reply, None, places)
        if trouble:
            log.warn(f"DHCP on {eth0.name}: {'; '.join(trouble)}")
        network.hostname = lease.reply.hostname
    elif client.refused:
        log.warn(f"DHCP on {eth0.name}: no lease yet: {client.refused}")
    elif log.control is not None:
        log.line(INFO, f"DHCP on {eth0.name}: no answer yet")
    if lease is None or lease.expires != FOREVER:
        network.keeper = Keeper(eth0, client, lease, lease is None and bool(client.refused), places)


# -- TSI -----------------------------------------------------------------------------------------------------------


def _set_up_dummy(places: Places, log: Log) -> None:
    """With libkrun's TSI, sockets are the host's; an interface with an address lets programs believe in a network."""
    try:
        words = files.read(places.command_line).partition(b"\n")[0].split()
        if _TSI in words[: words.index(b"--") if b"--" in words else None]:
            netlink = Netlink(link.bring_up(_DUMMY).index)
            try:
                netlink.add_address(_DUMMY_ADDRESS, _DUMMY_PREFIX)
            finally:
                netlink.close()
    except OSError as error:
        log.warn(f"{_DUMMY}: {reason_of(error)}")
