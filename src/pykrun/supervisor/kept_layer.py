"""A writable layer that is kept in a folder of the host, as the file system that the guest lays over its root."""

from __future__ import annotations

import os

from pykrun.machine import LAYER_TAG
from pykrun.root import Root
from pykrun.supervisor.plan import Volume


def keep_layer(option: str, where: str, below: str) -> tuple[Volume, int]:
    """Open a layer; return it, and a descriptor that keeps other VMs away from it.

    :param option: what names the folder, for messages.
    :param where: the folder.
    :param below: what the layer is over; it may lie over nothing else later.
    :raise UsageError: it cannot be opened, or belongs to another root or VM.
    """
    from pykrun.layer import open_layer  # of use to few VMs
    from pykrun.share import Share, find_directory

    layer = open_layer(where, below)
    try:
        folder, identity = find_directory(option, os.fspath(layer.folder))
    except BaseException:
        os.close(layer.descriptor)
        raise
    share = Share(
        root=Root(bare=True),
        folder=folder,
        identity=identity,
        cache="always",  # nobody but this VM looks at it meanwhile
        submounts=False,
        reachable=os.geteuid() != 0,
    )
    return Volume(share=share, tag=LAYER_TAG), layer.descriptor
