"""What the process that serves does: a file system, its server and a transport on one loop, at the end of a link."""

from __future__ import annotations

import logging
import os
import socket

from pykrun.errors import PeerError, VirtqueueError
from pykrun.fileserver import link as messages
from pykrun.fileserver.link import Link
from pykrun.fileserver.log import DEBUG, ERROR, WARN
from pykrun.fuse import Server
from pykrun.fuse.dev_fuse import Channel
from pykrun.loop import IN, Loop
from pykrun.share import Share
from pykrun.vhost_user import ANY_FEATURES, QEMU_FEATURES, Backend
from pykrun.virtio import FsDevice

_LINES = 50
"""Of one connection, lines in the log: a guest must not fill a disk."""


class Serving:
    """A composed share, served until the link's other end says so or closes it.

    :param share: what is served.
    :param link: this end becomes ours.
    """

    def __init__(self, share: Share, link: Link) -> None:
        logging.getLogger("pykrun").addHandler(_ToLink(link))
        self.loop = Loop()
        self.link = link
        self._filesystem = share.compose_in_sandbox()
        self.server = Server(self._filesystem)
        self.loop.add(link.fileno(), IN, self._readable)

    def run(self) -> None:
        """Serve; afterwards the last counts have been sent."""
        try:
            self.link.send(messages.READY, wait=True)
            self.loop.run()
        finally:
            self.close_transport()
            self.server.reset()
            self._tell_counts()
            self._filesystem.close()

    def connect(self, text: str, descriptor: int) -> None:
        """Take what requests come from now on; the descriptor is to be duplicated."""
        raise NotImplementedError

    def close_transport(self) -> None:
        """Let go of it."""

    def message(self, kind: bytes, text: str, descriptor: int) -> None:
        """Carry out what the other end asks for."""
        if kind == messages.CONNECTION:
            self.connect(text, descriptor)
        elif kind == messages.COUNTS:
            self._tell_counts()
        elif kind == messages.QUIT:
            self.loop.stop()

    def _readable(self, _events: int) -> None:
        if not self.link.receive(self.message):
            self.loop.stop()

    def _tell_counts(self) -> None:
        counts = self.server.statistics()
        self.link.send(messages.COUNTS, "\n".join(f"{name} {number}" for name, number in counts.items()), wait=True)


class Mounted(Serving):
    """Serves the kernel's requests for one mount, until it is unmounted."""

    _channel: Channel | None = None
    _said = False

    def connect(self, text: str, descriptor: int) -> None:
        """Take /dev/fuse."""
        if self._channel is None:
            self._channel = Channel(self.server, os.dup(descriptor))
            self.loop.add(self._channel.fileno(), IN, self._requests)

    def _requests(self, _events: int) -> None:
        assert self._channel is not None
        if not self._channel.serve():
            self.loop.stop()
        elif not self._said and self.server.initialized:
            self._said = True
            self.link.send(messages.ANSWERED, wait=True)

    def close_transport(self) -> None:
        """Close the descriptor: what is left of the mount is dead."""
        if self._channel is not None:
            self._channel.close()


class Attached(Serving):
    """Serves one front end after the other, as they come down the link.

    :param tag: the name by which guests mount it, for front ends that ask.
    """

    def __init__(self, share: Share, link: Link, tag: str) -> None:
        super().__init__(share, link)
        self._device = FsDevice(os.fsencode(tag), self.server.handle, reset=self.server.reset)
        self._backend: Backend | None = None
        self._lines = 0
        self._number = ""

    def connect(self, text: str, descriptor: int) -> None:
        """Take a front end; the one before it is gone."""
        self.close_transport()
        self._number, self._lines = text, 0
        self._backend = Backend(
            self.loop,
            self._device,
            socket.socket(fileno=os.dup(descriptor)),
            protocol_features=ANY_FEATURES,
            before_owner=QEMU_FEATURES,
            on_close=self._closed,
            on_broken=self._broken,
        )

    def close_transport(self) -> None:
        """Close the connection, if there is one."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def _closed(self, error: Exception | None) -> None:
        if self._backend is not None:
            self._log(DEBUG, f"the front end sent {self._backend.messages} messages")
        self._backend = None
        text = "" if error is None else str(error) if isinstance(error, PeerError) else f"the device failed: {error!r}"
        self.link.send(messages.ENDED, f"{self._number} {text}", wait=True)

    def _broken(self, index: int, error: VirtqueueError) -> None:
        self._log(WARN, f"the guest broke the rules of queue {index}, which has stopped: {error}")

    def _log(self, level: int, text: str) -> None:
        self._lines += 1
        if self._lines <= _LINES:
            self.link.send(messages.LOG, f"{level}{text}")


class _ToLink(logging.Handler):
    """Faults of ours, which the server reports once for each operation."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            self._link.send(messages.LOG, f"{ERROR}{line}")
