"""One ring of a connection: what the front end has said about it, and the queue while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable

from pykrun.errors import VhostUserError, VirtqueueError
from pykrun.loop import EDGE, IN, Loop, Timer
from pykrun.vhost_user.memory import SharedMemory
from pykrun.vhost_user.notifier import Notifier
from pykrun.virtio import Device, Virtqueue

MAX_RING = 1024
"""Largest ring we take: QEMU's VIRTQUEUE_MAX_SIZE. It bounds what one pass may cost."""

PASSES = 4
"""How often a ring is served in a row before the loop looks at everybody else."""


class Ring:
    """A ring runs while it has a kick descriptor and is enabled.

    :param on_broken: called when the guest broke the ring's rules; the ring has stopped then.
    :param on_failure: called with anything else that went wrong in the device.
    """

    def __init__(
        self,
        index: int,
        loop: Loop,
        device: Device,
        on_broken: Callable[[int, VirtqueueError], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.index = index
        self.size = 0
        self.base = 0
        self.addresses: tuple[int, int, int] | None = None
        """Descriptor table, available ring, used ring: the front end's addresses."""
        self.enabled = False
        self.queue: Virtqueue | None = None
        self.kicks = 0
        """How many times the driver kicked."""
        self.calls = 0
        """How many times it was called, before the ring last stopped."""
        self._loop = loop
        self._device = device
        self._on_broken = on_broken
        self._on_failure = on_failure
        self._kick_fd = -1
        self._call: Notifier | None = None
        self._error: Notifier | None = None
        self._again: Timer | None = None
        self._serving = False
        self._wanted = False

    @property
    def ready(self) -> bool:
        """Whether the front end has said that the ring is to run."""
        return self.enabled and self._kick_fd >= 0

    def set_kick(self, fd: int) -> None:
        """Take the descriptor that says that the driver has added something; -1 stops the ring for good."""
        self.stop()
        self._close_kick()
        self._kick_fd = fd

    def set_call(self, notifier: Notifier | None) -> None:
        """Take what tells the driver that something is done; None: it polls."""
        if self.queue is not None:
            self.queue.tell = None if notifier is None else notifier.tell
        if self._call is not None:
            self._call.close()
        self._call = notifier
        if self.queue is not None:
            self.queue.call()  # one may have gone to the old descriptor

    def set_error(self, notifier: Notifier | None) -> None:
        """Take what tells the front end that the ring is broken."""
        if self._error is not None:
            self._error.close()
        self._error = notifier

    def start(self, memory: SharedMemory, *, event_idx: bool, indirect: bool) -> None:
        """Begin to serve; what the driver has added already is served at once.

        :raise VhostUserError: the ring is not set up, or its addresses are wrong.
        """
        if self.size == 0 or self.addresses is None:
            raise VhostUserError(f"ring {self.index} started before its size and addresses were set")
        table, avail, used = self.addresses
        try:
            queue = Virtqueue(
                self.index,
                self.size,
                memory,
                memory.user_slice(table, 16 * self.size),
                memory.user_slice(avail, 6 + 2 * self.size),
                memory.user_slice(used, 6 + 8 * self.size),
                position=self.base,
                event_idx=event_idx,
                indirect=indirect,
            )
        except VirtqueueError as error:
            raise VhostUserError(str(error)) from None
        try:
            self._loop.add(self._kick_fd, IN | EDGE, self._kicked)
        except OSError as error:
            queue.stop()
            raise VhostUserError(f"kick descriptor of ring {self.index} cannot be waited for: {error}") from None
        queue.tell = None if self._call is None else self._call.tell
        queue.wake = self._wake
        self.queue = queue
        self._device.queue_started(queue)
        self._wake()

    def stop(self) -> None:
        """Stop serving: the device lets go of the queue, `base` says where it was."""
        queue, self.queue = self.queue, None
        if queue is None:
            return
        self._loop.remove(self._kick_fd)
        if self._again is not None:
            self._again.cancel()
            self._again = None
        queue.wake = _nothing
        try:
            self._device.queue_stopped(queue)
            queue.notify()  # what the device gave back when it let go
        except VirtqueueError:
            pass
        finally:
            self.base = queue.position
            self.calls += queue.calls
            queue.stop()

    def close(self) -> None:
        """Stop, and close the descriptors."""
        try:
            self.stop()
        finally:
            self._close_kick()
            self.set_call(None)
            self.set_error(None)

    def _close_kick(self) -> None:
        if self._kick_fd >= 0:
            os.close(self._kick_fd)
            self._kick_fd = -1

    def _kicked(self, _events: int) -> None:
        self.kicks += 1
        self._serve(False)

    def _wake(self) -> None:
        self._serve(True)

    def _serve(self, forced: bool) -> None:
        """Let the device work, in passes, until there is nothing more, it makes no progress, or others are due.

        :param forced: the device is to be called even if there is nothing.
        """
        if self._serving:  # a port became ready while it was being served
            self._wanted = True
            return
        queue = self.queue
        if queue is None:
            return
        self._serving = True
        try:
            try:
                if queue.refresh() or forced or queue.notify():
                    self._passes(queue)
            except VirtqueueError as error:
                self._break(error)
        except Exception as error:  # a device's fault ends the device, not the loop with everything in it
            self._on_failure(error)
        finally:
            self._serving = False

    def _passes(self, queue: Virtqueue) -> None:
        serve, notify = self._device.serve, queue.notify
        for _ in range(PASSES):
            position = queue.position
            self._wanted = False
            serve(queue)
            if self.queue is not queue:
                return
            more = notify()
            if not self._wanted and (not more or queue.position == position):
                return
        if self._again is None:
            self._again = self._loop.call_later(0, self._resume)

    def _resume(self) -> None:
        self._again = None
        self._wake()

    def _break(self, error: VirtqueueError) -> None:
        error.__context__ = error.__cause__ = None
        error.with_traceback(None)  # its frames hold views of guest memory
        self.stop()
        if self._error is not None:
            try:
                self._error.tell()
            except OSError:
                pass
        self._on_broken(self.index, error)


def _nothing() -> None:
    pass
