"""Limits of this process that a supervisor changes for itself."""

from __future__ import annotations

import resource

MANY = 65536
"""Descriptors that a supervisor may have open: each virtual file holds one, and a usual limit is 1,024."""


def allow_descriptors(count: int = MANY) -> None:
    """Raise our soft limit of open files to `count`, or as far as the hard one lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(hard, count)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def forbid_core_file() -> None:
    """Leave no image of our memory behind: it holds secrets, and an engine can make us die (a SIGBUS)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
