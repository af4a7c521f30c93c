"""Two trees compared by content and by everything that stat tells and does not depend on the place."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def differences(one: Path, other: Path, limit: int = 10) -> list[str]:
    """Say what is not the same, the first `limit` of it."""
    found: list[str] = []
    first_names: tuple[dict[tuple[int, int], str], dict[tuple[int, int], str]] = ({}, {})
    for folder, names, files in os.walk(one):
        below = os.path.relpath(folder, one)
        names.sort()
        if sorted([*names, *files]) != sorted(os.listdir(other / below)):
            found.append(f"{below}: other names")
            continue
        for name in sorted([*names, *files]):
            path = os.path.normpath(f"{below}/{name}")
            pair = one / path, other / path
            told = [_describe(place, path, first) for place, first in zip(pair, first_names, strict=True)]
            if told[0] != told[1]:
                found.append(f"{path}: {told[0]} and {told[1]}")
            elif pair[0].is_file() and not pair[0].is_symlink() and pair[0].read_bytes() != pair[1].read_bytes():
                found.append(f"{path}: other content")
            if len(found) >= limit:
                return found
    return found


def _describe(place: Path, path: str, first: dict[tuple[int, int], str]) -> tuple[object, ...]:
    status = os.lstat(place)
    kind = stat.S_IFMT(status.st_mode)
    link = os.readlink(place) if kind == stat.S_IFLNK else ""
    size = status.st_size if kind == stat.S_IFREG else 0
    same = (
        first.setdefault((status.st_dev, status.st_ino), path) if status.st_nlink > 1 and kind == stat.S_IFREG else ""
    )
    attributes = {name: os.getxattr(place, name, follow_symlinks=False) for name in _names(place)}
    return status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, link, same, attributes


def _names(place: Path) -> list[str]:
    return sorted(os.listxattr(place, follow_symlinks=False))
