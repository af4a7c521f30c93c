"""The life of a process that serves one shared directory of a VM (see `shares`)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pykrun import start_data
from pykrun.errors import PeerError
from pykrun.fs import AugmentFs, FileSource
from pykrun.fuse import Server
from pykrun.loop import Loop
from pykrun.root import INIT_PATH
from pykrun.supervisor.disks import BROKEN, when_connected
from pykrun.vhost_user import FRONT_ENDS, Backend
from pykrun.virtio import FsDevice

if TYPE_CHECKING:
    from socket import socket

    from pykrun.engine import Endpoint
    from pykrun.share import Share
    from pykrun.supervisor.shares import Boot


def serve_share(engine: str, endpoint: Endpoint, tag: str, share: Share, boot: Boot | None, codes: int) -> None:
    """Serve one directory until the engine hangs up: the life of a servant.

    :raise PeerError: the engine or the guest broke a protocol.
    """
    loop = Loop()
    ends: list[Exception] = []

    def report(code: int) -> None:
        try:
            os.write(codes, bytes((code & 0xFF,)))
        except OSError:
            pass  # a guest that reports without end, or a supervisor that is ending

    filesystem = share.compose_in_sandbox(on_exit_code=report if boot else None)
    if boot is not None:
        _add_boot_files(filesystem, boot)
    server = Server(filesystem)

    def end(error: Exception | None) -> None:
        if error is not None:
            ends.append(error)
        loop.stop()

    def use(connection: socket) -> None:
        Backend(
            loop,
            FsDevice(os.fsencode(tag), server.handle, reset=server.reset),
            connection,
            protocol_features=FRONT_ENDS[engine],
            on_close=end,
            on_broken=lambda _index, error: end(error),
        )

    when_connected(loop, endpoint, use)
    loop.run()
    server.reset()
    filesystem.close()
    if ends:
        what = BROKEN if isinstance(ends[0], PeerError) else "the device failed: "
        raise PeerError(what + str(ends[0]))


def _add_boot_files(filesystem: AugmentFs, boot: Boot) -> None:
    if boot.init is not None:
        filesystem.add_file(INIT_PATH, FileSource(boot.init, own=False), mode=0o755, one_shot=True)
    filesystem.add_file(start_data.PATH, boot.start, mode=0o400, one_shot=True)
