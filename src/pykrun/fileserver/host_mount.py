"""`pykrun mount`: one share mounted on the host, until somebody unmounts it or ends us."""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial

from pykrun.errors import UsageError
from pykrun.fileserver.keeper import Keeper, Sandbox
from pykrun.fileserver.link import CONNECTION, Link
from pykrun.fileserver.log import INFO, WARN, Log, tell_manager
from pykrun.fileserver.mounting import HostMount, MountOptions, check_mountpoint
from pykrun.fileserver.serving import Mounted
from pykrun.loop import IN
from pykrun.sandbox import FOLDER
from pykrun.sandbox.guardian import Guardian
from pykrun.share import Share

_PATIENCE = 10.0
"""Seconds that an orderly unmount may take: the server writes what the kernel held back."""


class MountedShare(Keeper):
    """Mounts, serves, unmounts.

    :param mountpoint: an existing directory.
    """

    def __init__(
        self,
        share: Share,
        log: Log,
        mountpoint: str,
        options: MountOptions,
        *,
        sandbox: Sandbox = "auto",
        stats: bool = False,
    ) -> None:
        super().__init__(share, log, sandbox=sandbox, stats=stats)
        self._mountpoint = mountpoint
        self._options = options
        self._mount: HostMount | None = None
        self._stopping = False

    def start(self) -> None:
        """Start the server first: a copy of the mount in its namespaces would keep the mount alive, and it waiting."""
        check_mountpoint(self._mountpoint)
        self.serve(_serve)
        folder = self.share.folder
        if folder is not None and self.isolation != FOLDER:
            inside = os.path.commonpath([os.path.realpath(self._mountpoint), folder]) == folder
            if inside:  # the server would meet its own mount, and wait for itself
                raise UsageError(
                    f"cannot mount {folder!r} inside itself without namespaces (--sandbox {self.isolation})",
                    "mount it somewhere else",
                )

    def on_ready(self) -> None:
        """Mount."""
        if self._stopping:
            return
        with closing(HostMount(self._mountpoint, self._options)) as mount:  # ours: the server's copy is what counts
            self._guard(mount)  # first: this process may be killed as soon as there is a mount
            self.stack.callback(lambda: self._guardian.close())  # whichever there is then
            mount.mount(self._guardian.pipe)
            self._guardian.note(mount.identity())
            self._mount = mount
            self.link.send(CONNECTION, descriptor=mount.descriptor, wait=True)

    def on_answered(self) -> None:
        """Say where it is mounted."""
        if self._mount is not None:
            self._mount.read_ahead()
            self.log(INFO, f"mounted on {self._mount.path}")
        tell_manager("READY=1")

    def on_stop(self) -> None:
        """Unmount: that ends the server, or is followed by its end where somebody still uses the mount."""
        self._stopping = True
        if self._mount is None:
            self.quit()
            return
        self._guardian.tidy()
        self.loop.call_later(_PATIENCE, self.kill)

    def _guard(self, mount: HostMount) -> None:
        self._guardian = Guardian(mount.unmount_noted)
        self._guardian.note(mount.identity())
        self.loop.add(self._guardian.pidfd, IN, partial(self._guardian_ended, mount))

    def _guardian_ended(self, mount: HostMount, _events: int) -> None:
        self.loop.remove(self._guardian.pidfd)
        if self._stopping or not mount.present:
            self.quit()
            return
        self._guardian.close()
        self._guard(mount)
        self.log(WARN, "the process that unmounts at the end was ended; there is a new one")


def _serve(share: Share, link: Link) -> None:
    """The life of the process that serves."""
    Mounted(share, link).run()
