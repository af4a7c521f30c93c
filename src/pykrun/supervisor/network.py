"""The network of one VM: passt, the cable to it, and what its end means.

passt may end before the VM: at once when it cannot bind a port or make its namespaces, later when it fails or somebody
kills it. Before the workload runs that is a failure to set up. Afterwards the VM goes on, with a dead line and a
warning: what the workload has done is worth more than its network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from pykrun.loop import IN, Loop
from pykrun.machine import Network
from pykrun.net import Border, FrameStream, Publish, check_all, look, make_pair, passt
from pykrun.root import Root
from pykrun.virtio.net import NetDevice

RESOLVER = b"/etc/resolv.conf"
"""Where the guest's init writes the name servers, or mounts a file of its own."""


class GuestNetwork:
    """Starts passt; `device` is what the guest is to be given.

    :param on_failure: called with a reason when the network is gone, at most once.
    :raise MissingError: passt is not installed.
    :raise UsageError: a port cannot be published.
    """

    def __init__(
        self, loop: Loop, network: Network, publish: Sequence[Publish], on_failure: Callable[[str], None]
    ) -> None:
        check_all(publish)
        around = look()
        self._loop = loop
        self._on_failure: Callable[[str], None] | None = on_failure
        ours, theirs = make_pair()
        with theirs:
            try:
                self._passt = passt.start(theirs, network, publish, around)
            except BaseException:
                ours.close()
                raise
        border = Border(dns=around.local_resolver, asked=any(entry.protocol == "udp" for entry in publish))
        self._stream = FrameStream(loop, ours, self._on_stream_end, border, mac=network.mac)
        self.device = NetDevice(self._stream, network.mac, network.mtu)
        loop.add(self._passt.pidfd, IN, self._on_end)
        loop.add(self._passt.messages, IN, self._on_message)

    def _on_message(self, _events: int) -> None:
        if not self._passt.listen():
            self._loop.remove(self._passt.messages)

    def _on_stream_end(self, why: str) -> None:
        if why:
            self._fail(why)  # else it is about to end, and will say why itself

    def _on_end(self, _events: int) -> None:
        self._loop.remove(self._passt.pidfd)
        self._fail(self._passt.describe_end())

    def _fail(self, reason: str) -> None:
        on_failure, self._on_failure = self._on_failure, None
        self._stream.hang_up()
        if on_failure is not None:
            hint = passt.hint(reason)
            on_failure(f"passt: {reason} ({hint})" if hint else f"passt: {reason}")

    def close(self) -> None:
        """End passt and give everything back."""
        self._on_failure = None
        self._stream.close()
        for descriptor in (self._passt.pidfd, self._passt.messages):
            if descriptor >= 0:
                self._loop.remove(descriptor)
        self._passt.close()


def prepare_resolver(root: Root, is_served: bool) -> bool:
    """Make a place for the guest's own resolver configuration; whether the root has one that is to be kept.

    :param is_served: the root is served by us; otherwise it is a disk's.
    """
    keep = RESOLVER in root.files
    if is_served and RESOLVER not in (*root.files, *root.directories) and os.path.dirname(RESOLVER) not in root.files:
        # Something to mount the guest's own on, where nothing can be written or it would be the host's.
        root.file(RESOLVER, b"")
    return keep
