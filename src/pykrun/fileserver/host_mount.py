"""`pykrun mount`: one share mounted on the host, until somebody unmounts it or ends us."""

from __future__ import annotations

from functools import partial

from pykrun.fileserver.guardian import Guardian
from pykrun.fileserver.keeper import Keeper
from pykrun.fileserver.link import Link
from pykrun.fileserver.log import INFO, WARN, Log
from pykrun.fileserver.mounting import HostMount, MountOptions
from pykrun.fileserver.serving import Mounted
from pykrun.loop import IN
from pykrun.share import Share

_PATIENCE = 10.0
"""Seconds that an orderly unmount may take: the server writes what the kernel held back."""


class MountedShare(Keeper):
    """Mounts, serves, unmounts.

    :param mountpoint: an existing directory.
    """

    def __init__(self, share: Share, log: Log, mountpoint: str, options: MountOptions, *, stats: bool) -> None:
        super().__init__(share, log, stats=stats)
        self._mountpoint = mountpoint
        self._options = options
        self._stopping = False

    def start(self) -> None:
        """Mount."""
        self._mount = mount = HostMount(self._mountpoint, self._options)
        self.stack.callback(mount.close)
        self._guard()
        self.stack.callback(lambda: self._guardian.close())  # whichever there is then
        self.serve(partial(_serve, descriptor=mount.descriptor), mount.descriptor)
        mount.close()  # the kernel ends the connection with the server's copy

    def on_ready(self) -> None:
        """Say where it is mounted."""
        self.log(INFO, f"mounted on {self._mount.path}")

    def on_stop(self) -> None:
        """Unmount: that ends the server, or is followed by its end where somebody still uses the mount."""
        self._stopping = True
        self._guardian.unmount()
        self.loop.call_later(_PATIENCE, self.kill)

    def _guard(self) -> None:
        self._guardian = Guardian(self._mount.unmount)
        self.loop.add(self._guardian.pidfd, IN, self._guardian_ended)

    def _guardian_ended(self, _events: int) -> None:
        self.loop.remove(self._guardian.pidfd)
        if self._stopping or not self._mount.present:
            self.quit()
            return
        self.log(WARN, "the process that unmounts at the end was ended; there is a new one")
        self._guardian.close()
        self._guard()


def _serve(share: Share, link: Link, *, descriptor: int) -> None:
    """The life of the process that serves."""
    Mounted(share, link, descriptor).run()
