"""Where the configuration of a FreeBSD guest is: a named file, the configuration disk, or the root's own file."""

from __future__ import annotations

from krun_init import config, files
from krun_init.errors import InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from krun_init.config import Config
    from krun_init.freebsd_system import System
    from krun_init.log import Log


def read(system: System, words: Mapping[str, str], log: Log) -> Config:
    """Read and check it; none anywhere is an empty one. The disk is only looked for when no file was named.

    :raise InitError: it is there, but wrong or not to be read.
    """
    path = words.get("KRUN_CONFIG")
    data = _from_disk(system, log) if path is None else None
    if data is not None:
        conf = config.parse(system.disk_config, data, log)
    else:
        conf = config.read(system.config if path is None else path, log)
    _warn(conf, log)
    return conf


def _from_disk(system: System, log: Log) -> bytes | None:
    """The file on the configuration disk, an ISO image with the label KRUN_CONFIG; it is not left mounted."""
    try:
        system.mkdir(system.disk_folder, 0o755)
    except OSError:
        pass  # there already, as a rule
    options = [("fstype", "cd9660"), ("fspath", system.disk_folder), ("from", system.disk)]
    try:
        system.nmount(options, system.MNT_RDONLY)
    except OSError as error:
        if _is_there(system, system.disk):
            raise InitError(f"cannot mount {system.disk} on {system.disk_folder}: {reason_of(error)}") from None
        return None
    try:
        return files.read(system.disk_config)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InitError(f"{system.disk_config}: {reason_of(error)}") from None
    finally:
        _unmount(system, log)


def _unmount(system: System, log: Log) -> None:
    try:
        system.unmount(system.disk_folder, 0)
    except OSError as error:
        log.warn(f"{system.disk_folder} stays mounted: {reason_of(error)}")


def _is_there(system: System, path: str) -> bool:
    try:
        system.stat(path)
    except OSError:
        return False
    return True


def _warn(conf: Config, log: Log) -> None:
    """Say what of the configuration only a Linux guest does."""
    for entry in conf.tmpfs:
        log.warn(f"no tmpfs on {entry.destination}: only Linux guests mount what the configuration asks for")
    if conf.capabilities is not None:
        log.warn("capabilities are Linux's: the workload may do what its user may do")
