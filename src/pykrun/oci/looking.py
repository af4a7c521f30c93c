"""The verbs `ps` and `events`: what runs in a container, and what it uses."""

from __future__ import annotations

import os
import time

from pykrun.errors import EngineError, UsageError
from pykrun.oci.options import FLAG, VALUE, Given, Table
from pykrun.oci.state import CREATING, RUNNING, STOPPED, Container
from pykrun.plain_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS: dict[str, tuple[str, Table]] = {
    "ps": (
        "[OPTION...] CONTAINER [PS-OPTION...]",
        {"format,f": (VALUE, "table: the guest's own ps; json: the pid that stands for the container here (table)")},
    ),
    "events": (
        "[OPTION...] CONTAINER",
        {"stats": (FLAG, "print once, and end"), "interval": (VALUE, "time between two, as in 5s or 500ms (5s)")},
    ),
}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def ps(root: str, _settings: Given, options: Given) -> int:
    """List processes: of the guest, or (json) the one that stands for the container on this host."""
    if not options.rest:
        raise UsageError("a container ID is wanted")
    container, kept = _alive(root, options.rest[0])
    form = options.value("format", "table")
    if form == "json":
        os.write(1, (dumps([kept["pid"]]) + "\n").encode())
        return 0
    if form != "table":
        raise UsageError(f"there is no format {form!r}", "there are table and json")
    if kept["status"] != RUNNING:  # the guest's own `ps` would wait for the start, or for the VM to go on
        raise UsageError("cannot list the processes of a container that is not running", f"it is {kept['status']}")
    from pykrun.oci.exec import Stand

    words = ["ps", *(options.rest[1:] or ["-ef"])]
    return Stand(container, {"args": words, "inherit_env": True}, "").wait()


def events(root: str, _settings: Given, options: Given) -> int:
    """Print what the container uses, as JSON: once, or every while until it has ended."""
    name = options.only()
    interval = _seconds(options.value("interval", "5s"))
    container, kept = _alive(root, name)
    while True:
        os.write(1, (dumps({"type": "stats", "id": container.name, "data": _statistics(kept)}) + "\n").encode())
        if options.flag("stats"):
            return 0
        deadline = time.monotonic() + interval
        while time.monotonic() < deadline:
            if not container.supervisor():
                return 0
            time.sleep(min(0.2, interval))


def _alive(root: str, name: str) -> tuple[Container, dict[str, Any]]:
    container = Container(root, name)
    kept = container.read()
    if kept["status"] in (STOPPED, CREATING):
        raise UsageError("container not running", f"it is {kept['status']}")
    return container, kept


def _seconds(word: str) -> float:
    for unit in ("ms", "s", "m", "h"):
        number = word.removesuffix(unit)
        if number != word and number.replace(".", "", 1).isdigit() and float(number) > 0:
            return float(number) * _UNITS[unit]
    raise UsageError(f"--interval must be a time as in 5s, not {word!r}")


def _statistics(kept: dict[str, Any]) -> dict[str, Any]:
    """In runc's shape: of the container's cgroup where it has one, else of its processes.

    :raise EngineError: it has just ended.
    """
    from pykrun.oci import usage

    folders = kept.get("pykrun", {}).get("cgroups", [])
    try:
        return usage.of_cgroups(folders) if folders else usage.of_processes(kept["pid"])
    except FileNotFoundError:
        raise EngineError("the container has just ended") from None
