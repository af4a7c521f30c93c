"""A lease to the machine, and off it again."""

from __future__ import annotations

from krun_init.dhcp import resolver
from krun_init.dhcp.client import text_of
from krun_init.dhcp.netlink import Netlink
from krun_init.dhcp.packet import ANY
from krun_init.errors import reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.dhcp.link import Link
    from krun_init.dhcp.packet import Reply, Route
    from krun_init.places import Places

SMALLEST_MTU, LARGEST_MTU = 1280, 65520
"""IPv6 needs the one; a TAP device can have the other."""


def install(link: Link, reply: Reply, old: Reply | None, places: Places) -> list[str]:
    """Set address, routes, MTU and name servers as the server says; returns what could not be done.

    :param old: what is set already, from a lease before this one.
    :raise OSError: the address could not be set.
    """
    trouble = [f"option {code} is malformed" for code in reply.ignored] if old is None else []
    if old is None or _settings(old) != _settings(reply):
        netlink = Netlink(link.index)
        try:
            if old is not None:
                _remove(netlink, old, reply)
            netlink.add_address(reply.address, reply.prefix)
            trouble += _add_routes(netlink, reply)
            if reply.mtu is not None:
                _set_mtu(netlink, reply.mtu)
        finally:
            netlink.close()
    if reply.servers and (old is None or (old.servers, old.search) != (reply.servers, reply.search)):
        try:
            resolver.write(resolver.content(reply), places)
        except OSError as error:
            trouble.append(f"cannot write {places.resolver}: {reason_of(error)}")
    return trouble


def withdraw(link: Link, reply: Reply) -> None:
    """Take routes and address away. The name servers stay: without an address they are out of reach.

    :raise OSError: the interface is gone.
    """
    netlink = Netlink(link.index)
    try:
        _remove(netlink, reply, None)
    finally:
        netlink.close()


def _settings(reply: Reply) -> tuple[object, ...]:
    return reply.address, reply.prefix, reply.routes, reply.mtu


def _add_routes(netlink: Netlink, reply: Reply) -> list[str]:
    """Destinations on the link come first: gateways may be among them."""
    trouble = []
    for route in sorted(reply.routes, key=_has_gateway):
        try:
            netlink.add_route(route)
        except OSError as error:
            trouble.append(f"no route to {text_of(route[0])}/{route[1]}: {reason_of(error)}")
    return trouble


def _has_gateway(route: Route) -> bool:
    return route[2] != ANY


def _set_mtu(netlink: Netlink, size: int) -> None:
    try:
        netlink.set_mtu(min(max(size, SMALLEST_MTU), LARGEST_MTU))
    except OSError:
        pass  # more than the device can


def _remove(netlink: Netlink, old: Reply, new: Reply | None) -> None:
    """What the old lease brought and the new one does not; gone already is fine."""
    for route in old.routes:
        if new is None or route not in new.routes:
            try:
                netlink.delete_route(route)
            except OSError:
                pass
    if new is None or (old.address, old.prefix) != (new.address, new.prefix):
        try:
            netlink.delete_address(old.address, old.prefix)
        except OSError:
            pass
