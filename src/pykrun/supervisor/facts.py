"""What others are told of a VM."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pykrun.supervisor.vm import VirtualMachine

MOST = 4096
"""Characters of the command that are told."""


def facts(vm: VirtualMachine | None) -> dict[str, Any]:
    """Return them, for JSON.

    :param vm: None before there is one.
    """
    if vm is None:
        return {"pid": os.getpid(), "status": "starting"}
    plan, start = vm.plan, vm.plan.start
    words = [] if start.program is None else [start.program, *start.arguments]
    return {
        "pid": os.getpid(),
        "engine": vm.engine,
        "memory_mib": plan.memory_mib,
        "cpus": plan.cpus or 1,
        "status": "paused" if vm.paused else "starting" if vm.tells and not vm.has_started else "running",
        "command": shortened(words),
    }


def shortened(words: Sequence[str | bytes]) -> list[str]:
    """A command's words as far as there is room for them."""
    found, room = [], MOST
    for word in map(os.fsdecode, words):
        if room <= 0:
            found.append("...")
            break
        found.append(word if len(word) <= room else word[:room] + "...")
        room -= len(word) + 1
    return found
