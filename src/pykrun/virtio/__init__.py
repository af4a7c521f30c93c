"""Virtio devices over split virtqueues: what is inside a request is the device's business, how it came the transport's.

Others use: `Device` and its queues (`Virtqueue`, `Chain`), `GuestMemory` and its `Region`, and the devices `FsDevice`
(here) and `ConsoleDevice` (`pykrun.virtio.console`).
"""

from pykrun.virtio.device import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, RING_FEATURES, Device
from pykrun.virtio.fs import FsDevice
from pykrun.virtio.memory import GuestMemory, Region
from pykrun.virtio.ring import Chain, Virtqueue

__all__ = [
    "F_EVENT_IDX",
    "F_INDIRECT_DESC",
    "F_VERSION_1",
    "RING_FEATURES",
    "Chain",
    "Device",
    "FsDevice",
    "GuestMemory",
    "Region",
    "Virtqueue",
]
