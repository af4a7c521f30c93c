"""The verbs that move a container from one state to the next, or say which it has."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself would import enum
import os
import time

from pykrun.errors import EngineError, PykrunError, UsageError
from pykrun.oci import report
from pykrun.oci.options import FLAG, Given, Table
from pykrun.oci.signals import HARMLESS, number_of
from pykrun.oci.state import CREATED, CREATING, PAUSED, RUNNING, STOPPED, Container, shown
from pykrun.oci.wire import knock
from pykrun.plain_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NONE: Table = {}
OPTIONS: dict[str, tuple[str, Table]] = {
    "start": ("CONTAINER", _NONE),
    "state": ("CONTAINER", _NONE),
    "kill": (
        "[OPTION...] CONTAINER [SIGNAL]",
        {"all,a": (FLAG, "accepted: what a signal does not end, the VM's end does")},
    ),
    "delete": ("[OPTION...] CONTAINER", {"force,f": (FLAG, "end it first; no error when there is none")}),
}
_PATIENCE = 10.0
"""Seconds that the processes of a VM have for their end after SIGKILL."""


def start(root: str, _settings: Given, options: Given) -> int:
    """Run the program of a created container; returns when it runs."""
    container = Container(root, options.only())
    kept = container.read()
    status = kept["status"]
    if status == STOPPED:
        raise UsageError("cannot start a container that has stopped")
    if status in (RUNNING, PAUSED):
        raise UsageError("cannot start an already running container")
    if status != CREATED:
        raise UsageError(f"cannot start a container in the {status} state")
    with knock(container.folder) as client:
        client.call("start")
    run_late_hooks("poststart", container.read())
    return 0


def run_late_hooks(stage: str, kept: dict[str, Any]) -> None:
    """Run the hooks of a stage that cannot fail any more: the specification wants a warning, and that all goes on."""
    documents = kept.get("pykrun", {}).get("late_hooks", {}).get(stage)
    if not documents:
        return
    from pykrun.oci.bundle import read_hook
    from pykrun.oci.fields import Fields
    from pykrun.oci.hooks import run_hooks

    try:
        run_hooks(stage, [read_hook(Fields("hooks", document)) for document in documents], shown(kept))
    except (PykrunError, OSError) as error:
        report.warn(str(error))


def state(root: str, _settings: Given, options: Given) -> int:
    """Print the state, as the specification has it."""
    os.write(1, (dumps(shown(Container(root, options.only()).read()), 2) + "\n").encode())
    return 0


def kill(root: str, _settings: Given, options: Given) -> int:
    """Send a container a signal."""
    if not 1 <= len(options.rest) <= 2:
        raise UsageError(f"a container ID and perhaps a signal are wanted, not {len(options.rest)} words")
    container = Container(root, options.rest[0])
    number = number_of(options.rest[1] if len(options.rest) > 1 else "SIGTERM")
    kept = container.read()
    if kept["status"] in (STOPPED, CREATING):
        if options.flag("all") and kept["status"] == STOPPED:
            return 0
        raise UsageError("container not running", f"it is {kept['status']}")
    if number == signal.SIGKILL:
        container.kill()  # the kernel ends all that a supervisor has started with it
    elif kept["status"] != CREATED:
        with knock(container.folder) as client:
            client.call("signal", number=number)
    elif number not in HARMLESS:  # before its start it is a process that has set up nothing, and ends of what it hears
        with knock(container.folder) as client:
            client.call("end", code=128 + number)
    return 0


def delete(root: str, _settings: Given, options: Given) -> int:
    """Remove a container."""
    container = Container(root, options.only())
    force = options.flag("force")
    try:
        kept: dict[str, Any] = container.read()
    except UsageError:
        if force:
            remove(container)
            return 0
        raise
    if kept["status"] not in (STOPPED, CREATED) and not force:
        raise UsageError(f"cannot delete container {container.name} that is not stopped: {kept['status']}")
    if kept["pid"]:
        end(container)
        kept = container.read()
    remove(container, kept)
    return 0


def end(container: Container) -> None:
    """Kill a supervisor, and wait until it has ended.

    :raise EngineError: it does not.
    """
    container.kill()
    deadline = time.monotonic() + _PATIENCE
    while pid := container.supervisor():
        if time.monotonic() > deadline:
            raise EngineError(f"process {pid} does not end, {_PATIENCE:g} seconds after SIGKILL")
        time.sleep(0.002)


def remove(container: Container, kept: dict[str, Any] | None = None) -> None:
    """Remove what is left of a container whose supervisor has ended.

    One that a creator has left behind as it was killed may only be about to begin: it ends, or never does.
    """
    end(container)
    try:
        kept = container.read() if kept is None else kept
    except (UsageError, ValueError):
        kept = {}
    folders = kept.get("pykrun", {}).get("cgroups")
    if folders:
        from pykrun.oci import cgroup

        cgroup.remove(folders)
    run_late_hooks("poststop", kept)
    lock = None
    while lock is None:
        try:
            lock = container.claim()
        except BlockingIOError:
            end(container)
    container.remove()
    if lock >= 0:
        os.close(lock)
