"""What the process that serves does for a virtual machine: the virtio-fs device on one connection after the other."""

from __future__ import annotations

import os
import socket

from pykrun.errors import PeerError, VirtqueueError
from pykrun.fileserver import link as messages
from pykrun.fileserver.link import Link
from pykrun.fileserver.log import DEBUG, WARN
from pykrun.fileserver.serving import Serving
from pykrun.share import Share
from pykrun.vhost_user import ANY_FEATURES, QEMU_FEATURES, Backend
from pykrun.virtio import FsDevice

_LINES = 50
"""Of one connection, lines in the log: a guest must not fill a disk."""


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
