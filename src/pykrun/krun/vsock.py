"""Sockets between guest and host."""

from __future__ import annotations

import errno
import os

from pykrun.krun.calls import Refusal, Text, call, number, text
from pykrun.krun.context import DISABLED, EXPLICIT, VsockPort, find
from pykrun.krun.messages import WARNING, tell

TSI_INET, TSI_UNIX = 1 << 0, 1 << 1


@call
def krun_add_vsock_port(ctx_id: int, port: int, c_filepath: Text) -> int:
    """Let connections of the guest to a vsock port (of CID 2) end at a Unix socket on which the host listens.

    :return: 0; -EINVAL: NULL or no UTF-8 text; -ENODEV: the vsock device is disabled; -ENOENT: no such context.
    """
    return _add_port(ctx_id, port, c_filepath, listen=False)


@call
def krun_add_vsock_port2(ctx_id: int, port: int, c_filepath: Text, listen: bool) -> int:
    """Pair a vsock port with a Unix socket.

    :param listen: the other direction: the socket is made here, and who connects to it reaches the guest's port.
    :return: 0; -EINVAL: NULL, no UTF-8 text, a path that cannot be looked at; -EEXIST: with `listen`, there is
        something at the path; -ENODEV: the vsock device is disabled; -ENOENT: no such context.
    """
    return _add_port(ctx_id, port, c_filepath, listen=bool(listen))


@call
def krun_add_vsock(ctx_id: int, tsi_features: int) -> int:
    """Add a vsock device, after `krun_disable_implicit_vsock`.

    :param tsi_features: 1 inet, 2 unix: which sockets of the guest are the host's (TSI). That takes a patched guest
        kernel, which neither engine has: for inet, user-mode networking stands in, and a line of the log says so.
    :return: 0; -EINVAL: other features; -EEXIST: there is a vsock device; -ENOENT: no such context.
    """
    if number("tsi_features", tsi_features) & ~(TSI_INET | TSI_UNIX):
        raise Refusal(errno.EINVAL, f"there are no TSI features {tsi_features:#x}")
    context = find(ctx_id)
    if context.vsock != DISABLED:
        raise Refusal(errno.EEXIST, "there is a vsock device: krun_disable_implicit_vsock comes first")
    context.vsock, context.tsi = EXPLICIT, tsi_features
    if tsi_features:
        tell(
            WARNING,
            "krun_add_vsock: TSI needs a patched guest kernel, which is not there: %s",
            "user-mode networking stands in for it" if tsi_features & TSI_INET else "Unix sockets stay the guest's own",
        )
    return 0


@call
def krun_disable_implicit_vsock(ctx_id: int) -> int:
    """Have no vsock device, and nothing in place of TSI: no network but the devices that are added.

    :return: 0; -ENOENT: no such context.
    """
    context = find(ctx_id)
    context.vsock, context.tsi = DISABLED, 0
    return 0


def _add_port(ctx_id: int, port: int, c_filepath: Text, *, listen: bool) -> int:
    path = text("c_filepath", c_filepath)
    number("port", port)
    if listen and _exists(path):
        raise Refusal(errno.EEXIST, f"there is something at {path!r}")
    context = find(ctx_id)
    if context.vsock == DISABLED:
        raise Refusal(errno.ENODEV, "the vsock device is disabled")
    context.vsock_ports[port] = VsockPort(port=port, path=path, listen=listen)
    return 0


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Refusal(errno.EINVAL, f"{path!r}: {error.strerror}") from None
    return True
