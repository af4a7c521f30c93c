"""Virtio ports, found by the names that the host gave them."""

from __future__ import annotations

import posix
import time

from krun_init import files
from krun_init.errors import InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.places import Places

CONTROL = "krun-control"
STREAMS = ("krun-stdin", "krun-stdout", "krun-stderr")

_RING_INDIRECT_DESC = 28  # uapi/linux/virtio_ring.h, the feature's bit


def find(places: Places, expected: list[str]) -> dict[str, str]:
    """Device names (`vport0p1`) by port name; waits until every expected one is there.

    :raise InitError: one did not appear in time.
    """
    deadline = 0.0
    found: dict[str, str] = {}
    while True:
        _look(places, found)
        missing = [name for name in expected if name not in found]
        if not missing:
            return found
        now = time.monotonic()
        deadline = deadline or now + places.patience
        if now >= deadline:
            raise InitError(f"virtio port {missing[0]} did not appear")
        time.sleep(0.001)


def _look(places: Places, found: dict[str, str]) -> None:
    try:
        devices = posix.listdir(places.ports)
    except FileNotFoundError:
        return
    known = frozenset(found.values())
    for device in devices:
        if device in known:
            continue
        try:
            name = files.read_attribute(f"{places.ports}/{device}/name")
        except OSError:
            continue  # its name is still on the way
        if len(name) > 1:
            found[str(name, "utf-8", "surrogateescape").rstrip("\n")] = device


def open_port(places: Places, device: str, flags: int) -> int:
    """Open a port; each can be opened only once.

    :raise InitError: it cannot be opened.
    """
    try:
        return places.open_port(device, flags)
    except OSError as error:
        raise InitError(f"cannot open virtio port {device}: {reason_of(error)}") from None


def can_splice(places: Places, device: str) -> bool:
    """Whether splice(2) into the port is safe.

    Without indirect descriptors a pipe's pages may find no room in the ring, and the driver then drops them.
    """
    try:
        features = files.read_attribute(f"{places.ports}/{device}/device/features")
    except OSError:
        return False
    return features[_RING_INDIRECT_DESC : _RING_INDIRECT_DESC + 1] == b"1"
