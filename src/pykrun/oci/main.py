"""The command `pykrun-oci`: global options, the verb, and how an error is told."""

from __future__ import annotations

import os
import sys

from pykrun.errors import PykrunError, UsageError
from pykrun.oci import report
from pykrun.oci.options import FLAG, VALUE, Given, Table, parse
from pykrun.oci.state import default_root
from pykrun.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SPECIFICATION = "1.0.2"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""For programs of this host: podman calls some verbs without any variable."""
_GLOBAL: Table = {
    "root": (VALUE, "folder of the containers' states (/run/pykrun-oci, or $XDG_RUNTIME_DIR/pykrun-oci)"),
    "log": (VALUE, "file that gets errors, beside standard error"),
    "log-format": (VALUE, "text or json (text)"),
    "debug": (FLAG, "tell more: a traceback of what fails"),
    "systemd-cgroup": (FLAG, "cgroupsPath is slice:prefix:name"),
    "cgroup-manager": (VALUE, "cgroupfs, systemd or disabled (cgroupfs)"),
    "rootless": (VALUE, "accepted: what may be done is found out"),
    "criu": (VALUE, "accepted: there is no checkpoint"),
    "help,h": (FLAG, "print this"),
    "version,v": (FLAG, "print the version"),
}
VERBS = {
    "create": ("pykrun.oci.create", "create a container from a bundle"),
    "start": ("pykrun.oci.lifetime", "run the program of a created container"),
    "run": ("pykrun.oci.run", "create and start a container, and wait for its end"),
    "state": ("pykrun.oci.lifetime", "print the state of a container"),
    "exec": ("pykrun.oci.exec", "run a process in a container"),
    "pause": ("pykrun.oci.standing", "let a container stand still"),
    "resume": ("pykrun.oci.standing", "let it go on"),
    "kill": ("pykrun.oci.lifetime", "send a container a signal"),
    "delete": ("pykrun.oci.lifetime", "remove a container that has ended"),
    "list": ("pykrun.oci.listing", "list containers"),
    "ps": ("pykrun.oci.looking", "list the processes of a container"),
    "events": ("pykrun.oci.looking", "print what a container uses"),
    "update": ("pykrun.oci.update", "change the limits of a container"),
    "features": ("pykrun.oci.features", "print what this runtime can do"),
    "spec": ("pykrun.oci.spec", "write a config.json to begin with"),
    "checkpoint": ("pykrun.oci.unsupported", "not supported"),
    "restore": ("pykrun.oci.unsupported", "not supported"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit status: a program's, 0, or 1 (`exec`: 255) with one line of what is wrong."""
    _open_standard_streams()
    words = sys.argv[1:] if words is None else words
    os.environ.setdefault("PATH", _PATH)
    given = Given()
    try:
        given = parse(words, _GLOBAL, verb="")
        report.set_up(given)
        status = _dispatch(given)
    except PykrunError as error:
        status = _complain(given, str(error))
    except OSError as error:
        name = f": {error.filename!r}" if error.filename else ""
        status = _complain(given, f"{error.strerror or error}{name}")
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        status = _complain(given, f"internal error: {error!r} (please report it)")
    return status


def _open_standard_streams() -> None:
    """Have something at 0, 1 and 2 where the caller has closed them, before another file of ours comes to lie there.

    A supervisor inherits them, so they stay open when another program begins.
    """
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which gets the lowest number that is free
            os.set_inheritable(stream, True)


def _dispatch(given: Given) -> int:
    if given.flag("version"):
        return _print(f"pykrun-oci version {VERSION}\nspec: {SPECIFICATION}\n")
    if given.flag("help") or not given.rest or given.rest[0] in ("help", "h"):
        from pykrun.oci import help

        return _print(
            help.of_all(
                f"An OCI runtime (specification {SPECIFICATION}) whose containers are VMs, with runc's command line.",
                {name: text for name, (_, text) in VERBS.items()},
                _GLOBAL,
            )
        )
    verb, *words = given.rest
    if verb not in VERBS:
        raise UsageError(f"there is no command {verb!r}", "see `pykrun-oci --help`")
    if given.value("log-format", "text") not in ("text", "json"):
        raise UsageError(f"unknown log-format {given.value('log-format')!r}", "there are text and json")
    module = VERBS[verb][0]
    __import__(module)
    table: Table | None
    usage, table = sys.modules[module].OPTIONS[verb]
    options = Given()
    if table is not None:
        table = {**table, "help,h": (FLAG, "print this")}
        options = parse(words, table, verb=verb)
        if options.flag("help"):
            from pykrun.oci import help

            return _print(help.of_verb(verb, usage, VERBS[verb][1], table))
    root = os.path.abspath(given.value("root") or default_root())
    status: int = getattr(sys.modules[module], verb)(root, given, options)
    return status


def _print(text: str) -> int:
    os.write(1, text.encode())
    return 0


def _complain(given: Given, message: str) -> int:
    """Say what is wrong; return the exit status."""
    if given.flag("debug"):
        from traceback import format_exc

        os.write(2, format_exc().encode(errors="replace"))
    report.complain(message)
    if given.rest[:1] == ["exec"]:
        from pykrun.oci.exec import FAILED

        return FAILED
    return 1
