"""Who may do what by the mode bits, for clients that ask (ACCESS). Linux checks by itself before it sends anything."""

from __future__ import annotations

from os import R_OK, W_OK, X_OK
from stat import S_ISDIR

from pykrun.fs.types import Attributes, Caller


def denied(attributes: Attributes, mask: int, caller: Caller) -> bool:
    """Whether the mode refuses the caller any of the rights in `mask` (R_OK, W_OK, X_OK).

    Root reads and writes everything, and executes what anybody may execute.
    """
    mode = attributes.mode
    if caller.uid == 0:
        rights = R_OK | W_OK | (X_OK if mode & 0o111 or S_ISDIR(mode) else 0)
    elif caller.uid == attributes.uid:
        rights = mode >> 6
    elif caller.gid == attributes.gid or attributes.gid in caller.groups:
        rights = mode >> 3
    else:
        rights = mode
    return bool(mask & ~rights & (R_OK | W_OK | X_OK))
