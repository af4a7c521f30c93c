"""Namespaces, ids, capabilities, system-call filter for what runs guest code.

`start` puts a program described by a `Jail` into the strongest isolation the host allows, and returns the `Inmate`.
"""

from pykrun.sandbox.identity import unprivileged_identity
from pykrun.sandbox.jail import FILES, LEVELS, NAMESPACES, REDUCED, USER_NAMESPACE, WORK, Isolation, Jail
from pykrun.sandbox.libraries import search_path, shared_libraries
from pykrun.sandbox.start import Ended, Inmate, Wish, start

__all__ = [
    "FILES",
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
    "start",
    "unprivileged_identity",
]
