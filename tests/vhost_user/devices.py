"""A device for tests: answers each request with its own bytes."""

from __future__ import annotations

from collections.abc import Callable

from pykrun.virtio import Device, Virtqueue


class Echo(Device):
    """Copies what it reads into what it may write; counts what the transport does with it."""

    device_id = 42
    features = 1 << 3
    queue_count = 2

    def __init__(self) -> None:
        self.started: list[int] = []
        self.stopped: list[int] = []
        self.resets = 0
        self.agreed: list[int] = []
        self.served = 0
        self.queues: dict[int, Virtqueue] = {}
        self.before_reply: Callable[[], None] | None = None

    def config(self) -> bytes:
        return b"configuration"

    def accepted(self, features: int) -> None:
        self.agreed.append(features)

    def queue_started(self, queue: Virtqueue) -> None:
        self.started.append(queue.index)
        self.queues[queue.index] = queue

    def queue_stopped(self, queue: Virtqueue) -> None:
        self.stopped.append(queue.index)
        del self.queues[queue.index]

    def reset(self) -> None:
        self.resets += 1

    def serve(self, queue: Virtqueue) -> None:
        while (chain := queue.pop()) is not None:
            self.served += 1
            content = b"".join(chain.readable)
            if self.before_reply is not None:
                self.before_reply()
            written = 0
            for view in chain.writable:
                part = content[written : written + len(view)]
                view[: len(part)] = part
                written += len(part)
            queue.push(chain, written)
