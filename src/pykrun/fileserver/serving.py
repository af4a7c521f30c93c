"""What the process that serves does: a file system, its server and a transport on one loop, at the end of a link."""

from __future__ import annotations

import os

from pykrun.fileserver import link as messages
from pykrun.fileserver.link import Link
from pykrun.fileserver.log import ERROR
from pykrun.fuse import Server
from pykrun.fuse.dev_fuse import Channel
from pykrun.loop import IN, Loop
from pykrun.share import Share


class Serving:
    """A composed share, served until the link's other end says so or closes it.

    :param share: what is served.
    :param link: this end becomes ours.
    """

    def __init__(self, share: Share, link: Link) -> None:
        self.loop = Loop()
        self.link = link
        self._filesystem = share.compose_in_sandbox()
        self.server = Server(self._filesystem, on_fault=self._fault)
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

    def _fault(self, operation: str, bug: Exception) -> None:
        text = f"{ERROR}fault in FUSE {operation}, answered EIO: {bug!r}{origin(bug)}"
        self.link.send(messages.LOG, text)

    def _tell_counts(self) -> None:
        counts = self.server.statistics()
        self.link.send(messages.COUNTS, "\n".join(f"{name} {number}" for name, number in counts.items()), wait=True)


class Mounted(Serving):
    """Serves the kernel's requests for one mount, until it is unmounted."""

    _channel: Channel | None = None
    _said = False
    _waiting = False

    def connect(self, text: str, descriptor: int) -> None:
        """Take /dev/fuse."""
        if self._channel is None:
            self._channel = Channel(self.server, os.dup(descriptor))
            self.loop.add(self._channel.fileno(), IN, self._requests)

    def _requests(self, _events: int) -> None:
        assert self._channel is not None
        if not self._channel.serve():
            self.loop.stop()
            return
        if self._channel.again is not None and not self._waiting:
            self._waiting = True
            self.loop.call_later(self._channel.again, self._serve_again)
        if not self._said and self.server.initialized:
            self._said = True
            self.link.send(messages.ANSWERED, wait=True)

    def _serve_again(self) -> None:
        self._waiting = False
        self._requests(IN)

    def close_transport(self) -> None:
        """Close the descriptor: what is left of the mount is dead."""
        if self._channel is not None:
            self._channel.close()


def origin(error: BaseException) -> str:
    """Say where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" in {trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
