"""The specification's `process`: checked here, carried out by the guest's init, which understands the same object."""

from __future__ import annotations

from pykrun.errors import UsageError
from pykrun.oci.fields import Fields
from pykrun.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_LAST_ID = (1 << 32) - 2
_INFINITY = (1 << 64) - 1
_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_LIMITS = frozenset(
    f"RLIMIT_{name}"
    for name in (  # noqa: SIM905
        "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"
    ).split()
)
CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in (  # noqa: SIM905
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
        "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
"""Those that Linux has; a word that is none of them is left out, as runc does."""


@record(frozen=True, slots=True, kw_only=True)
class Process:
    """A program to run.

    :param document: what the guest's init is told: the specification's object with what it understands.
    :param size: rows and columns of the terminal, None when nobody said.
    :param oom_score_adjust: of the process that stands for the container on the host.
    """

    document: dict[str, Any]
    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    directory: str
    terminal: bool
    size: tuple[int, int] | None
    oom_score_adjust: int | None


def with_home(environment: Sequence[str]) -> list[str]:
    """Variables in which HOME, if nobody set it, is empty: the guest's init fills in what its /etc/passwd says.

    The specification is silent; runc does so, and containerd leaves it to the runtime.
    """
    return [*environment, *(() if any(word.startswith("HOME=") for word in environment) else ("HOME=",))]


def read_process(fields: Fields) -> Process:
    """Check a `process`.

    :raise UsageError: a field is wrong.
    """
    arguments = fields.texts("args")
    if not arguments:
        raise UsageError(f"{fields.label('args')} is missing: there must be a program to run")
    if not arguments[0]:
        raise UsageError(f"{fields.label('args')}[0] is empty")
    directory = fields.needed("cwd")
    if not directory.startswith("/"):
        raise fields.refuse("cwd", f"must be absolute, not {directory!r}")
    environment = fields.texts("env")
    for index, word in enumerate(environment):
        if "=" not in word[1:]:
            raise UsageError(f"{fields.label('env')}[{index}] must be NAME=VALUE, not {word!r}")
    terminal = fields.flag("terminal")
    size = _size(fields.child("consoleSize")) if "consoleSize" in fields else None
    document: dict[str, Any] = {
        "args": arguments,
        "env": with_home(environment),
        "cwd": directory,
        "user": _user(fields.child("user")),
        "rlimits": [_limit(entry) for entry in fields.children("rlimits")],
        "noNewPrivileges": fields.flag("noNewPrivileges"),
    }
    if "capabilities" in fields:
        sets = fields.child("capabilities")
        document["capabilities"] = {name: _capabilities(sets.texts(name)) for name in _SETS}
    if terminal:
        document["terminal"] = True
    return Process(
        document=document,
        arguments=tuple(arguments),
        environment=tuple(environment),
        directory=directory,
        terminal=terminal,
        size=size,
        oom_score_adjust=fields.number("oomScoreAdj", -1000, 1000),
    )


def _user(fields: Fields) -> dict[str, Any]:
    user: dict[str, Any] = {name: fields.number(name, 0, _LAST_ID) or 0 for name in ("uid", "gid")}
    groups = fields.numbers("additionalGids", 0, _LAST_ID)
    if groups:
        user["additionalGids"] = groups
    umask = fields.number("umask", 0, 0o777)
    if umask is not None:
        user["umask"] = umask
    return user


def _limit(entry: Fields) -> dict[str, Any]:
    name = entry.needed("type")
    if name not in _LIMITS:
        raise entry.refuse("type", f"is {name!r}, which is no resource limit")
    soft, hard = (entry.number(key, 0, _INFINITY) for key in ("soft", "hard"))
    if soft is None or hard is None:
        raise UsageError(f"{entry.where} needs both soft and hard")
    if soft > hard:
        raise entry.refuse("soft", f"is {soft}, more than hard, {hard}")
    return {"type": name, "soft": soft, "hard": hard}


def _capabilities(words: list[str]) -> list[str]:
    return [word for word in dict.fromkeys(map(str.upper, words)) if word in CAPABILITIES]


def _size(fields: Fields) -> tuple[int, int]:
    return fields.number("height", 0, 65535) or 0, fields.number("width", 0, 65535) or 0
