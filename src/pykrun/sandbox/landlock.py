"""Landlock: a process gives up opening and changing files outside one folder. Anybody may, without namespaces.

Source: the Linux kernel's include/uapi/linux/landlock.h. It watches opening, making, removing, renaming, linking and
truncating; not chmod, chown, times, extended attributes and looking.
"""

from __future__ import annotations

import os
from errno import ENOSYS, EOPNOTSUPP

from pykrun.host import linux

_CREATE_VERSION = 1
_PATH_BENEATH = 1
_RIGHTS = {1: 1 << 13, 2: 1 << 14, 3: 1 << 15, 5: 1 << 16}
"""By version: the first right on files that is unknown (13 in version 1, then REFER, TRUNCATE, IOCTL_DEV)."""
_OLDEST = 2  # version 1 forbids every rename from one folder to another
_SIGNAL_AND_ABSTRACT_SOCKETS = 0b11  # version 6: LANDLOCK_SCOPE_...


def version() -> int:
    """Tell what the kernel has: 0 for no Landlock, or one that is too old or turned off."""
    try:
        found = linux.system_call("landlock_create_ruleset", None, 0, _CREATE_VERSION)
    except OSError as error:
        if error.errno in (ENOSYS, EOPNOTSUPP):
            return 0
        raise
    return found if found >= _OLDEST else 0


def confine(folder: str) -> bool:
    """Leave this thread no files but those at and below `folder`, and open ones; return whether that could be.

    Needs no_new_privs.

    :raise OSError: the folder cannot be opened.
    """
    known = version()
    if not known:
        return False
    rights = _RIGHTS[max(number for number in _RIGHTS if number <= known)] - 1
    words = [rights, 0, _SIGNAL_AND_ABSTRACT_SOCKETS] if known >= 6 else [rights]
    attributes = b"".join(word.to_bytes(8, "little") for word in words)
    rules = linux.system_call("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        beneath = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            rule = rights.to_bytes(8, "little") + beneath.to_bytes(4, "little")  # struct landlock_path_beneath_attr
            linux.system_call("landlock_add_rule", rules, _PATH_BENEATH, rule, 0)
        finally:
            os.close(beneath)
        linux.system_call("landlock_restrict_self", rules, 0)
    finally:
        os.close(rules)
    return True
