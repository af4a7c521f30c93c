"""The network of a container in a namespace that somebody has furnished: the guest becomes what its interface is.

Whoever made the namespace (podman's netavark, a CNI plugin, slirp4netns) has given the interface an address and sends
there what is published. So the guest has that address, every port of it, and no port has to be known or passed on.
"""

from __future__ import annotations

import socket

from pykrun.net import packet
from pykrun.request import Link
from pykrun.start_data import Address


def card() -> tuple[Link, Address] | None:
    """Return the guest's network card and its address; None where this network namespace has no interface for it."""
    found = packet.find()
    if found is None:
        return None
    text = socket.inet_ntoa
    address = Address(
        address=text(found.address),
        prefix=found.prefix,
        routes=[(text(destination), bits, text(gateway)) for destination, bits, gateway in packet.routes()],
        mtu=found.mtu,
    )
    return Link(kind="interface", tap=found.name, mac=found.mac, mtu=found.mtu), address
