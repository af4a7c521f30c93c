"""Users and groups of an image by its /etc/passwd and /etc/group, as Docker reads them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pykrun.errors import UsageError
from pykrun.image.inside import open_inside
from pykrun.record import record
from pykrun.root import resolve_parent
from pykrun.start_data import User

_LARGEST = 4 << 20
_LARGEST_ID = (1 << 32) - 2


@record(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A user, and the home directory that the image gives it."""

    user: User
    home: str


def resolve_user(tree: Path, text: str) -> Resolved:
    """Understand `USER[:GROUP]`, each a name or a number, in the image's terms.

    Without a group it is the user's own, with the further groups that list the user; an unknown number has group 0. The
    home directory of whom the image does not know is `/`.

    :param text: empty for the user 0.
    :raise UsageError: the image has no such user or group.
    """
    who, colon, group = text.partition(":")
    who = who or "0"
    accounts = [fields for line in read_inside(tree, b"/etc/passwd") if len(fields := line.split(":")) >= 6]
    number = _number(who)
    found = next(
        (fields for fields in accounts if (fields[0] == who if number is None else _number(fields[2]) == number)), None
    )
    if found is None and number is not None:  # a name may look like a number
        found = next((fields for fields in accounts if fields[0] == who), None)
    if found is None and number is None:
        raise UsageError(f"the image has no user {who!r} in its /etc/passwd", "--user takes numbers too")
    uid = number if found is None else _number(found[2])
    own = 0 if found is None else _number(found[3])
    if uid is None or own is None:
        raise UsageError(f"the image's /etc/passwd is damaged where it tells of {who!r}")
    gid = own
    more: tuple[int, ...] = ()
    groups = [fields for line in read_inside(tree, b"/etc/group") if len(fields := line.split(":")) >= 4]
    if colon and group:
        gid = _group(groups, group)
    elif found is not None:
        more = tuple(
            number
            for fields in groups
            if found[0] in fields[3].split(",") and (number := _number(fields[2])) is not None
        )
    home = found[5] if found is not None and found[5] else "/"
    return Resolved(user=User(uid=uid, gid=gid, additional_gids=more), home=home)


def _group(groups: list[list[str]], text: str) -> int:
    number = _number(text)
    for fields in groups:
        if fields[0] == text and (found := _number(fields[2])) is not None:
            return found
    if number is None:
        raise UsageError(f"the image has no group {text!r} in its /etc/group", "--user takes numbers too")
    return number


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= _LARGEST_ID else None


def read_inside(tree: Path, name: bytes) -> list[str]:
    """Return the lines of a file of the image, none where there is no such file; links are followed within it."""
    place = resolve_parent(os.fsencode(tree), name + b"/.")[:-2]
    try:
        descriptor = open_inside(tree, place, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        return os.fsdecode(os.pread(descriptor, _LARGEST, 0)).split("\n")
    except OSError:
        return []
    finally:
        os.close(descriptor)
