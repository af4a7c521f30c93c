"""Whom the workload runs as: OCI's `process.user`, also in the start data."""

from __future__ import annotations

from krun_init.checks import Fields

LAST_ID = (1 << 32) - 2
"""The highest id; one more is the kernel's 'no change'."""


class User:
    """Ids and umask of the workload."""

    __slots__ = ("gid", "groups", "uid", "umask")

    def __init__(self, uid: int = 0, gid: int = 0, groups: list[int] | None = None, umask: int = -1) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups or []
        self.umask = umask


def parse(fields: Fields) -> User:
    """The user that an object describes; ids that are absent are 0.

    :raise InitError: a wrong type or an id out of range.
    """
    umask = fields.number("umask", 0, 0o777)
    return User(
        fields.number("uid", 0, LAST_ID) or 0,
        fields.number("gid", 0, LAST_ID) or 0,
        fields.numbers("additionalGids", 0, LAST_ID),
        -1 if umask is None else umask,
    )
