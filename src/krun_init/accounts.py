"""Users and groups by name, from the guest's own /etc/passwd and /etc/group (passwd(5), group(5))."""

from __future__ import annotations

from krun_init import files
from krun_init.errors import InitError
from krun_init.user import LAST_ID, User

USERS, GROUPS = "/etc/passwd", "/etc/group"
_LARGEST = 4 << 20
"""Bytes of either."""


def look_up(text: str) -> tuple[User, str]:
    """The user that `USER[:GROUP]` names, each a name or a number, and its home directory.

    Without a group it is the user's own, with the further groups that list the user; a number that nobody has is taken
    as it is, with group 0 and home `/`.

    :raise InitError: there is no such user or group.
    """
    who, _colon, group = text.partition(":")
    account = _find(USERS, who or "0", 2, 6)
    number = _number(who or "0") if account is None else _number(account[2])
    if number is None:
        raise InitError(f"there is no user {who!r} in {USERS}")
    user = User(number, 0 if account is None else _number(account[3]) or 0)
    if group:
        found = _find(GROUPS, group, 2, 3)
        gid = _number(group) if found is None else _number(found[2])
        if gid is None:
            raise InitError(f"there is no group {group!r} in {GROUPS}")
        user.gid = gid
    elif account is not None:
        for fields in _entries(GROUPS, 4):
            gid = _number(fields[2])
            if gid is not None and account[0] in fields[3].split(","):
                user.groups.append(gid)
    return user, account[5] if account is not None and account[5] else "/"


def fill_home(variables: dict[str, str], user: User | None) -> None:
    """Replace an empty HOME by the home directory of the user (root when there is none), `/` if that is not listed."""
    if variables.get("HOME") == "":
        account = _find(USERS, str(user.uid if user else 0), 2, 6)
        variables["HOME"] = account[5] if account is not None and account[5] else "/"


def _find(path: str, name: str, number: int, least: int) -> list[str] | None:
    """The entry of that name, or else of that number."""
    entries = _entries(path, least)
    for field in (0, number):
        for fields in entries:
            if fields[field] == name:
                return fields
    return None


def _entries(path: str, least: int) -> list[list[str]]:
    try:
        lines = str(files.read_regular(path, _LARGEST), "utf-8", "surrogateescape").split("\n")
    except OSError:
        return []
    return [fields for line in lines if len(fields := line.split(":")) >= least]


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= LAST_ID else None
