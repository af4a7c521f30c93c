"""The root's own configuration: OCI runtime, flat, or as Docker writes it (`/.krun_config.json`)."""

from __future__ import annotations

from krun_init import capabilities, checks, files, jsonload, rlimits, start, user
from krun_init.errors import InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.capabilities import Masks
    from krun_init.checks import Fields
    from krun_init.log import Log
    from krun_init.rlimits import Limits
    from krun_init.start import Tmpfs
    from krun_init.user import User


class Config:
    """What the configuration says; everything absent by default."""

    argv: list[str] = []
    env: list[tuple[str, str]] = []
    workdir: str | None = None
    hostname: str | None = None
    user: User | None = None
    rlimits: Limits = {}
    capabilities: Masks | None = None
    no_new_privs = False
    terminal = False
    tmpfs: list[Tmpfs] = []


def read(path: str, log: Log) -> Config:
    """Read and check the configuration; one that is missing is an empty one.

    :raise InitError: it exists, but is wrong: running something else than it says would be worse.
    """
    try:
        data = files.read(path)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise InitError(f"{path}: {reason_of(error)}") from None
    return parse(path, data, log)


def parse(where: str, data: bytes, log: Log) -> Config:
    """Check the configuration's bytes.

    :raise InitError: says what is wrong with which field.
    """
    try:
        fields = checks.Fields(where, jsonload.loads(data))
    except ValueError as error:
        raise InitError(f"{where} is not JSON: {error}") from None
    config = Config()
    process = fields.child("process")
    if process is not None:
        arguments = take_process(config, process, log)
    else:
        arguments = _take_flat(config, fields)
    config.argv = (fields.texts("Entrypoint") or []) + arguments
    config.hostname = fields.text("hostname")
    config.tmpfs = [start.tmpfs(entry) for entry in fields.children("mounts") if _is_tmpfs(entry)]
    return config


def take_process(config: Config, process: Fields, log: Log) -> list[str]:
    """Take what `process` of the OCI runtime specification says; returns its arguments.

    :raise InitError: says what is wrong with which field.
    """
    config.env = _environment(process, ("env",))
    config.workdir = process.text("cwd") or None
    config.terminal = process.flag("terminal")
    config.no_new_privs = process.flag("noNewPrivileges")
    config.rlimits = rlimits.from_config(process.children("rlimits"))
    who = process.child("user")
    config.user = user.parse(who) if who is not None else None
    sets = process.child("capabilities")
    config.capabilities = capabilities.parse(sets, log) if sets is not None else None
    return process.texts("args") or []


def _take_flat(config: Config, fields: Fields) -> list[str]:
    """The flat form; where two spellings are given, the first in the table counts."""
    config.env = _environment(fields, ("env", "Env"))
    for name in ("cwd", "WorkingDir", "Cwd"):
        config.workdir = config.workdir or fields.text(name)
    return fields.texts("args") or fields.texts("Cmd") or []


def _environment(fields: Fields, names: tuple[str, ...]) -> list[tuple[str, str]]:
    for name in names:
        words = fields.texts(name)
        if words:
            return [checks.pair(fields.label(name), word) for word in words]
    return []


def _is_tmpfs(entry: Fields) -> bool:
    return entry.text("type") == "tmpfs" and entry.text("source") == "tmpfs"
