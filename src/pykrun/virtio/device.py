"""What every virtio device is to its transport."""

from __future__ import annotations

from pykrun.virtio.ring import Virtqueue

F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32

RING_FEATURES = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1
"""The device-independent features of our rings (virtio 1.2, section 6)."""


class Device:
    """One virtio device. The transport calls it, all in one thread; it calls back only through the queues it was given.

    Any hook may raise `VirtqueueError`: the transport then stops that queue.
    """

    device_id: int
    """Virtio device id (virtio 1.2, section 5)."""

    features: int = 0
    """Device-specific feature bits on offer; the transport adds `RING_FEATURES`."""

    queue_count: int
    """How many queues there are; the driver may use fewer."""

    def config(self) -> bytes:
        """Return the device configuration space."""
        return b""

    def accepted(self, features: int) -> None:
        """Take note of the feature bits that the driver accepted, before it starts any queue."""

    def queue_started(self, queue: Virtqueue) -> None:
        """Take note that the driver has started a queue: it can be used from now on."""

    def serve(self, queue: Virtqueue) -> None:
        """Take chains off a queue that the driver has kicked, and push those that are done.

        The transport notifies the driver afterwards, and calls again when there is more. A chain that cannot be
        finished now may stay out, and be pushed later, followed by `queue.notify()`.
        """
        raise NotImplementedError

    def queue_stopped(self, queue: Virtqueue) -> None:
        """Let go of a queue and all its chains; the memory behind it goes when this returns."""

    def reset(self) -> None:
        """Forget everything that the driver did: it is gone, or begins anew. No queue is running."""
