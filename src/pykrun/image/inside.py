"""Opening what lies in an image's tree, by a path from which the links have been taken out.

A hostile image may have more links on a way than anybody follows; then one is left in the path. So each name is looked
up in the directory before it, and a link is never followed.
"""

from __future__ import annotations

import os
from pathlib import Path

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_inside(tree: Path, path: bytes, flags: int) -> int:
    """Open a path of the tree.

    :param path: absolute, the tree being its root; without `..`.
    :raise OSError: it is not there, or a link lies on the way or at its end.
    """
    *folders, last = [name for name in path.split(b"/") if name] or [b"."]
    directory = os.open(tree, _DIRECTORY)
    try:
        for name in folders:
            further = os.open(name, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = further
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)


def kind_inside(tree: Path, path: bytes) -> int | None:
    """Return the mode of what is at a path of the tree, a link itself; None if nothing is.

    :raise OSError: a link lies on the way.
    """
    try:
        descriptor = open_inside(tree, path, os.O_PATH)
    except FileNotFoundError:
        return None
    try:
        return os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
