"""What container runtimes add to an image's tree: the working directory, and a table of hosts."""

from __future__ import annotations

import os
from pathlib import Path

from pykrun.image.users import read_inside
from pykrun.root import Root, resolve_parent

_HOSTS = b"/etc/hosts"
_TABLE = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def add_missing(root: Root, tree: Path, workdir: str) -> None:
    """Add the working directory if the image has none of that name, and /etc/hosts if its own says nothing.

    :raise UsageError: the working directory cannot be.
    """
    folder = os.fsencode(tree)
    path = os.path.normpath(os.fsencode(workdir))
    if path != b"/":
        place = resolve_parent(folder, path + b"/.")[:-2]
        if place and not os.path.lexists(folder + place) and place not in root.files:
            root.directory(place)
    if not any(line.strip() for line in read_inside(tree, _HOSTS)):
        place = resolve_parent(folder, _HOSTS)
        if (
            place not in root.files
            and os.path.isdir(folder + os.path.dirname(place))
            and not os.path.islink(folder + place)
        ):
            root.file(place, _TABLE)
