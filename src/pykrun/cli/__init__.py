"""The `pykrun` command. One module per subcommand, imported only when it is the one that was asked for."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself would import enum first
import sys

TYPE_CHECKING = False  # typing takes four milliseconds to import
if TYPE_CHECKING:
    from typing import NoReturn

COMMANDS = {
    "run": "run a command in a microVM",
    "exec": "run one more command in a microVM that runs",
    "ps": "list the microVMs that run",
    "stop": "end microVMs in order",
    "fs": "share files with a VM of any front end: the vhost-user daemon on its own",
    "mount": "mount the same file system on this host",
    "config": "print the options of a run, of files and command line together, as such a file",
    "completion": "print what lets bash, zsh or fish complete this command",
    "image": "list, fetch and remove the container images of `pykrun run --image`",
    "doctor": "say what can run here, what is missing and how to get it",
    "lib": "say where the C library, libkrun.so.1, is; build it if need be",
    "init": "say where the init blob is and how it was built",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Errors are one line on standard error that says what is wrong and what to do; `--debug` shows the traceback.
    """
    words = sys.argv[1:] if argv is None else argv
    is_run = words[:1] in (["run"], ["exec"])
    if is_run:
        _die_of_interrupts()  # before any further import
    else:
        _hear_interrupts()
    from pykrun.cli.streams import keep_standard_streams

    keep_standard_streams()
    status = None
    if words[:1] == ["exec"]:
        from pykrun.cli.exec import run_quickly

        status = run_quickly(words[1:])
    if status is None:
        from pykrun.cli.dispatch import dispatch

        status = dispatch(words)
    if argv is None and is_run:
        _leave(status)
    return status


def _leave(status: int) -> NoReturn:
    """End this process without taking the interpreter apart: a tenth of what it took to start."""
    import os

    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads it, or it was closed
    os._exit(status)


def _hear_interrupts() -> None:
    """A checkout's command died of Ctrl-C until now (scripts/common.sh); whoever has to tidy up hears it."""
    if _signal.getsignal(_signal.SIGINT) == _signal.SIG_DFL:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _die_of_interrupts() -> None:
    """Until the supervisor listens, Ctrl-C ends us as SIGTERM does: the kernel ends what we started, whatever we do.

    A KeyboardInterrupt could come out of any import, or out of the middle of starting an engine.
    """
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
