"""The virtio-fs device (virtio 1.2, section 5.11): carries FUSE requests to a server, knows nothing of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct

from pykrun.virtio.device import Device
from pykrun.virtio.ring import Virtqueue

Handle = Callable[[Sequence[memoryview], Sequence[memoryview]], int]
"""A FUSE server: request, room for the reply, returns the length of the reply. Never raises."""

_CONFIG = Struct("<36sI")  # struct virtio_fs_config: tag, num_request_queues
_REQUEST_QUEUES = 1  # Linux up to 6.8 uses one, whatever is offered


class FsDevice(Device):
    """A file system share.

    :param tag: what the guest mounts, up to 36 bytes, padded with NUL.
    :param handle: answers each request.
    :param reset: called when the guest's session is over; the next request is an INIT.
    :raise ValueError: the tag is empty, too long or contains NUL.
    """

    device_id = 26
    queue_count = 1 + _REQUEST_QUEUES  # the high priority queue comes first

    def __init__(self, tag: bytes, handle: Handle, reset: Callable[[], None] | None = None) -> None:
        if not 0 < len(tag) <= 36 or b"\0" in tag:
            raise ValueError(f"virtio-fs tag {tag!r} must have 1 to 36 bytes, none of them NUL")
        self._config = _CONFIG.pack(tag, _REQUEST_QUEUES)
        self._handle = handle
        self._reset = reset

    def config(self) -> bytes:
        """Return struct virtio_fs_config."""
        return self._config

    def serve(self, queue: Virtqueue) -> None:
        """Answer every request that is there."""
        queue.answer(self._handle)

    def reset(self) -> None:
        """End the session."""
        if self._reset is not None:
            self._reset()
