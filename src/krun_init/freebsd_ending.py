"""The end of a FreeBSD guest: everything stopped and synced, then init exits with the code. Nothing here may fail."""

from __future__ import annotations

from krun_init.errors import reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from krun_init.errors import Ending
    from krun_init.freebsd_system import System
    from krun_init.log import Log


def end(ending: Ending, system: System, log: Log) -> NoReturn:
    """Stop what still runs, sync, leave the disks clean, exit.

    FreeBSD has no way to hand a number to the host. Its kernel prints `init died (signal 0, exit CODE)` on the console,
    panics and reboots (kern_exit.c), which is what there is to read.
    """
    try:
        system.end_processes()
        system.sync()
        _detach_disks(system, log)
    finally:
        system.exit(ending.code)


def _detach_disks(system: System, log: Log) -> None:
    """Make the file systems of block devices read-only, so that they are clean: the panic writes nothing any more."""
    try:
        table = system.mounts()
    except OSError:
        return
    for kind, source, target, flags in reversed(table):
        if flags & system.MNT_RDONLY or not source.startswith("/dev/"):
            continue
        options = [("fstype", kind), ("fspath", target), ("from", source), ("update", None), ("ro", None)]
        try:
            system.nmount(options, system.MNT_UPDATE | system.MNT_RDONLY | system.MNT_FORCE)
        except OSError as error:
            log.warn(f"cannot make {target} read-only: {reason_of(error)}")
