"""Network devices, and ports of the host that lead into the guest."""

from __future__ import annotations

import errno

from pykrun.krun.calls import Buffer, Refusal, Text, Texts, buffer, call, descriptor, number, text, texts
from pykrun.krun.context import DISABLED, NetSpec, find
from pykrun.krun.messages import WARNING, tell

FLAG_VFKIT, FLAG_DHCP_CLIENT = 1 << 0, 1 << 1
CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_UFO = 1 << 0, 1 << 1, 1 << 7, 1 << 8, 1 << 10
HOST_TSO4, HOST_TSO6, HOST_UFO = 1 << 11, 1 << 12, 1 << 14
ALL_FEATURES = CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_UFO | HOST_TSO4 | HOST_TSO6 | HOST_UFO
COMPAT_FEATURES = CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_UFO | HOST_TSO4 | HOST_UFO
"""What the deprecated functions stand for."""
DEFAULT_MAC = b"\x5a\x94\xef\xe4\x0c\xee"
MAX_PORT = 65535


@call
def krun_add_net_unixstream(ctx_id: int, c_path: Text, fd: int, c_mac: Buffer, features: int, flags: int) -> int:
    """Add a network device whose peer (passt, socket_vmnet) speaks over a stream socket: eth0, eth1, ... in order.

    :param c_path: where the peer listens; NULL if `fd` is connected to it.
    :param fd: -1 if there is a path.
    :param c_mac: six bytes.
    :param features: bits of virtio-net: 0, 1, 7, 8, 10, 11, 12, 14. Accepted, without effect: the guest is offered
        none of them.
    :param flags: 2: the guest configures the device by DHCP.
    :return: 0; -EINVAL: both or neither of path and fd, unknown features or flags, no address; -ENOENT: no such
        context.
    """
    path, fd = _peer(c_path, fd)
    mac = _mac(c_mac)
    _check_bits("flags", flags, FLAG_DHCP_CLIENT)
    _check_bits("features", features, ALL_FEATURES)
    return _add(ctx_id, NetSpec(kind="unixstream", path=path, descriptor=fd, mac=mac, features=features), flags)


@call
def krun_add_net_unixgram(ctx_id: int, c_path: Text, fd: int, c_mac: Buffer, features: int, flags: int) -> int:
    """Add a network device whose peer (gvproxy, vmnet-helper) speaks over a datagram socket.

    :param flags: 1: send the magic word of vfkit's mode first (with a path), 2: DHCP; else as
        `krun_add_net_unixstream`.
    :return: 0; errors as there.
    """
    path, fd = _peer(c_path, fd)
    mac = _mac(c_mac)
    _check_bits("features", features, ALL_FEATURES)
    _check_bits("flags", flags, FLAG_VFKIT | FLAG_DHCP_CLIENT)
    vfkit = path is not None and bool(flags & FLAG_VFKIT)
    device = NetSpec(kind="unixgram", path=path, descriptor=fd, mac=mac, features=features, vfkit=vfkit)
    return _add(ctx_id, device, flags)


@call
def krun_add_net_tap(ctx_id: int, c_tap_name: Text, c_mac: Buffer, features: int, flags: int) -> int:
    """Add a network device that is a tap device of the host. Its features are without effect, as those of the others.

    :return: 0; -EINVAL: NULL, no UTF-8 text, unknown features or flags, GUEST_TSO4, GUEST_TSO6 or GUEST_UFO without
        GUEST_CSUM; -ENOENT: no such context.
    """
    name = text("c_tap_name", c_tap_name)
    mac = _mac(c_mac)
    _check_bits("features", features, ALL_FEATURES)
    if features & (GUEST_TSO4 | GUEST_TSO6 | GUEST_UFO) and not features & GUEST_CSUM:
        raise Refusal(errno.EINVAL, "a tap device with GUEST_TSO4, GUEST_TSO6 or GUEST_UFO needs GUEST_CSUM")
    _check_bits("flags", flags, FLAG_DHCP_CLIENT)
    return _add(ctx_id, NetSpec(kind="tap", path=name, mac=mac, features=features), flags)


@call
def krun_set_passt_fd(ctx_id: int, fd: int) -> int:
    """Use a socket that passt is connected to (deprecated: `krun_add_net_unixstream`). The last call counts.

    :return: 0; -EINVAL: no descriptor, or there is a network device of the other functions; -ENOENT: no such context.
    """
    if descriptor("fd", fd) < 0:
        raise Refusal(errno.EINVAL, f"{fd} is no descriptor")
    return _set_legacy(ctx_id, NetSpec(kind="unixstream", descriptor=fd, mac=DEFAULT_MAC, features=COMPAT_FEATURES))


@call
def krun_set_gvproxy_path(ctx_id: int, c_path: Text) -> int:
    """Use gvproxy's socket in vfkit's mode (deprecated: `krun_add_net_unixgram`). The last call counts.

    :return: 0; -EINVAL: NULL, no UTF-8 text, or there is a network device of the other functions; -ENOENT: no such
        context.
    """
    path = text("c_path", c_path)
    device = NetSpec(kind="unixgram", path=path, mac=DEFAULT_MAC, features=COMPAT_FEATURES, vfkit=True)
    return _set_legacy(ctx_id, device)


@call
def krun_set_net_mac(ctx_id: int, c_mac: Buffer) -> int:
    """Set the address of the device of `krun_set_passt_fd` or `krun_set_gvproxy_path`: six bytes.

    :return: 0; -EINVAL: NULL, or fewer bytes; -ENOENT: no such context.
    """
    mac = _mac(c_mac)
    find(ctx_id).legacy_mac = mac
    return 0


@call
def krun_set_port_map(ctx_id: int, port_map: Texts) -> int:
    """Let TCP ports of the host lead into the guest: "host:guest" each.

    libkrun does it by TSI, where the guest's sockets are the host's. Here the guest has a network card and user-mode
    networking (docs/network.md), and its program listens at the guest's port, on any of its addresses.

    :param port_map: an empty array: none. NULL asks for every port that the guest listens on, which is not supported.
    :return: 0; -ENOTSUP: NULL; -EINVAL: no such pair, a port given twice, or there is a network device; -ENODEV: the
        vsock device is disabled; -ENOENT: no such context.
    """
    if port_map is None:
        find(ctx_id)
        tell(WARNING, "krun_set_port_map(NULL) is not supported: which ports the guest listens on is not known here")
        return -errno.ENOTSUP
    ports: dict[int, int] = {}
    for pair in texts("port_map", port_map):
        host, guest = _ports(pair)
        if guest in ports or host in ports.values():
            raise Refusal(errno.EINVAL, f"a port of {pair!r} was given before")
        ports[guest] = host
    context = find(ctx_id)
    if context.vsock == DISABLED:
        raise Refusal(errno.ENODEV, "the vsock device is disabled")
    if context.all_nets():
        raise Refusal(errno.EINVAL, "there is a network device: its peer is who forwards ports")
    context.port_map = ports
    return 0


def _ports(pair: str) -> tuple[int, int]:
    words = pair.split(":")
    if len(words) != 2 or not all(word.isascii() and word.isdigit() and len(word) < 6 for word in words):
        raise Refusal(errno.EINVAL, f"{pair!r} is not HOST:GUEST")
    host, guest = int(words[0]), int(words[1])
    if not 0 < host <= MAX_PORT or not 0 < guest <= MAX_PORT:
        raise Refusal(errno.EINVAL, f"{pair!r} has a port that cannot be")
    return host, guest


def _peer(c_path: Text, fd: int) -> tuple[str | None, int]:
    path, fd = None if c_path is None else text("c_path", c_path), descriptor("fd", fd)
    if (path is None) == (fd < 0):
        raise Refusal(errno.EINVAL, "exactly one of path and descriptor is wanted")
    return path, fd


def _mac(c_mac: Buffer) -> bytes:
    return bytes(buffer("c_mac", c_mac, 6))


def _check_bits(name: str, value: int, known: int) -> None:
    if number(name, value) & ~known:
        raise Refusal(errno.EINVAL, f"{name} has unknown bits: {value:#x}")


def _add(ctx_id: int, device: NetSpec, flags: int) -> int:
    context = find(ctx_id)
    context.nets.append(device)
    context.dhcp = context.dhcp or bool(flags & FLAG_DHCP_CLIENT)
    return 0


def _set_legacy(ctx_id: int, device: NetSpec) -> int:
    context = find(ctx_id)
    if context.nets:
        raise Refusal(errno.EINVAL, "there is a network device already, and this function is for the only one")
    context.legacy_net = device
    return 0
