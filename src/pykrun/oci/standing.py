"""The verbs `pause` and `resume`: a container stands still, and goes on."""

from __future__ import annotations

from pykrun.errors import UsageError
from pykrun.oci.options import Given, Table
from pykrun.oci.state import PAUSED, RUNNING, Container
from pykrun.oci.wire import knock

OPTIONS: dict[str, tuple[str, Table]] = {"pause": ("CONTAINER", {}), "resume": ("CONTAINER", {})}


def pause(root: str, _settings: Given, options: Given) -> int:
    """Stop the VM where it is."""
    return _ask(root, options, "pause", RUNNING, "container not running")


def resume(root: str, _settings: Given, options: Given) -> int:
    """Let it go on."""
    return _ask(root, options, "resume", PAUSED, "container not paused")


def _ask(root: str, options: Given, request: str, wanted: str, otherwise: str) -> int:
    container = Container(root, options.only())
    status = container.read()["status"]
    if status != wanted:
        raise UsageError(otherwise, f"it is {status}")
    with knock(container.folder) as client:
        client.call(request)
    return 0
