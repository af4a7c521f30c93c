"""Namespaces, ids, capabilities, system-call filter for what runs guest code.

`start` puts a program described by a `Jail` into the strongest isolation the host allows, and returns the `Inmate`.
`pykrun.sandbox.servant` does the same with a server of ours (`serve`, `Service`, `Servant`).
"""

from pykrun.sandbox.child import unprivileged_identity
from pykrun.sandbox.fork import Wish
from pykrun.sandbox.jail import (
    FILES,
    FOLDER,
    LANDLOCK,
    LEVELS,
    NAMESPACES,
    REDUCED,
    USER_NAMESPACE,
    WORK,
    Isolation,
    Jail,
)
from pykrun.sandbox.libraries import search_path, shared_libraries
from pykrun.sandbox.start import Ended, Inmate, signal_name, start

__all__ = [
    "FILES",
    "FOLDER",
    "LANDLOCK",
    "LEVELS",
    "NAMESPACES",
    "REDUCED",
    "USER_NAMESPACE",
    "WORK",
    "Ended",
    "Inmate",
    "Isolation",
    "Jail",
    "Wish",
    "search_path",
    "shared_libraries",
    "signal_name",
    "start",
    "unprivileged_identity",
]
