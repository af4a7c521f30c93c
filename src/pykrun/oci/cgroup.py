"""The cgroups of a container: made, joined, limited, removed; without systemd, where they can be written at all.

A host has the v2 tree, the v1 trees, or both (hybrid). Where one cannot be written the container goes on without it: a
VM is bounded by its own memory and processors.
"""

from __future__ import annotations

from pykrun.oci.bundle import Limits


def enter(path: str, limits: Limits, *, systemd: bool) -> list[str]:
    """Make and join the container's cgroups; return their folders."""
    return []
