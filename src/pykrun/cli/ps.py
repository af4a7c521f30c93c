"""`pykrun ps`: the VMs of this user."""

from __future__ import annotations

import argparse
import os
import time

from pykrun import vms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EPILOG = """It lists the VMs of this user that run: those of `pykrun run`, and those of programs. STATUS is starting,
running or paused.

examples:
  pykrun ps
  pykrun ps --json | jq -r '.[] | select(.memory_mib > 1000).name'
  pykrun ps --quiet | xargs pykrun stop
"""

HEAD = ("NAME", "PID", "ENGINE", "UP", "STATUS", "COMMAND")
LONGEST_COMMAND = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="all that is known of each, as a JSON array")
    how.add_argument("-q", "--quiet", action="store_true", help="names alone")


def run(arguments: argparse.Namespace) -> int:
    """Print the list."""
    found = vms.listed()
    if arguments.quiet:
        print("".join(f"{one.name}\n" for one in found), end="")
    elif arguments.json:
        import json

        print(json.dumps([_facts(one) for one in found], indent=2))
    else:
        _table([HEAD, *(_row(one) for one in found)])
    return 0


def _facts(one: vms.Listed) -> dict[str, Any]:
    return {**one.state, "name": one.name, "pid": one.pid or one.state.get("pid")}


def _row(one: vms.Listed) -> tuple[str, ...]:
    state = one.state
    started, command = state.get("started"), state.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else []
    return (
        one.name,
        str(one.pid or state.get("pid") or "?"),
        str(state.get("engine") or "?"),
        _span(time.time() - started) if isinstance(started, int | float) else "?",
        str(state.get("status") or "starting"),
        _shown(words),
    )


def _shown(words: list[str]) -> str:
    import shlex

    line = "".join(char if char.isprintable() else "?" for char in shlex.join(words))
    return line if len(line) <= LONGEST_COMMAND else line[: LONGEST_COMMAND - 3] + "..."


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    print(os.fsencode("\n".join(lines)).decode(errors="replace"))
