"""From a context's network devices to connected sockets: the caller connects, whose names and rights they are."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack

from pykrun.krun.calls import Refusal
from pykrun.krun.context import Context, NetSpec
from pykrun.request import Descriptor, Link

KINDS = {"unixstream": "stream", "unixgram": "datagram", "tap": "tap"}
VFKIT = b"VFKT"
"""The first datagram to a server that speaks vfkit's protocol (gvproxy): it learns our address."""
_PATIENCE = 5.0


def links(context: Context, stack: ExitStack) -> tuple[Link, ...]:
    """Connect the network devices, eth0 first.

    :raise Refusal: nobody listens, or a descriptor is no such socket.
    """
    made = []
    for device in context.all_nets():
        is_legacy = device is context.legacy_net and context.legacy_mac is not None
        mac = context.legacy_mac if is_legacy and context.legacy_mac is not None else device.mac
        kind = KINDS[device.kind]
        if kind == "tap":
            made.append(Link(kind=kind, tap=device.path or "", mac=mac))
        else:
            made.append(Link(kind=kind, end=_end(device, kind, stack), mac=mac))
    return tuple(made)


def _end(device: NetSpec, kind: str, stack: ExitStack) -> Descriptor:
    type = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
    try:
        if device.path is None:
            with socket.socket(fileno=os.dup(device.descriptor)) as given:
                if given.family != socket.AF_UNIX or given.type != type:
                    raise Refusal(errno.EINVAL, f"descriptor {device.descriptor} is another kind of socket")
            return Descriptor(device.descriptor)
        connection = stack.enter_context(socket.socket(socket.AF_UNIX, type))
        connection.settimeout(_PATIENCE)
        if type == socket.SOCK_DGRAM:
            connection.bind(b"")  # to be answered: a name of the kernel's, which leaves no file behind
        connection.connect(device.path)
        if device.vfkit:
            connection.send(VFKIT, socket.MSG_NOSIGNAL)
        connection.settimeout(None)
    except OSError as error:
        what = device.path if device.path is not None else f"descriptor {device.descriptor}"
        raise Refusal(errno.EINVAL, f"network device {what!r}: {error.strerror or error}") from None
    return Descriptor(connection.fileno())
