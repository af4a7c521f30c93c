"""What container runtimes add to an image's tree: the working directory, and a table of hosts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pykrun.image.inside import kind_inside
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
        if place and place not in root.files and _is_missing(tree, place):
            root.directory(place)
    if not any(line.strip() for line in read_inside(tree, _HOSTS)):
        place = resolve_parent(folder, _HOSTS)
        if place not in root.files and _may_have(tree, place):
            root.file(place, _TABLE)


def _is_missing(tree: Path, place: bytes) -> bool:
    try:
        return kind_inside(tree, place) is None
    except OSError:  # whatever is on the way, the guest may find out
        return False


def _may_have(tree: Path, place: bytes) -> bool:
    """Whether a file can be shown there: its directory exists, and it is no link."""
    try:
        folder, own = kind_inside(tree, os.path.dirname(place)), kind_inside(tree, place)
    except OSError:
        return False
    return folder is not None and stat.S_ISDIR(folder) and not (own is not None and stat.S_ISLNK(own))
