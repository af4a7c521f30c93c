"""OCI's `process.capabilities` as the masks that the kernel takes (capabilities(7))."""

from __future__ import annotations

from krun_init.checks import Fields
from krun_init.errors import InitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.log import Log

Masks = tuple[int, int, int, int, int]
"""Bounding, effective, inheritable, permitted, ambient."""

SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")

# uapi/linux/capability.h: the names in the order of their numbers.
_NAMES = (  # noqa: SIM905
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()


def parse(fields: Fields, log: Log) -> Masks:
    """The five sets; one that is absent is empty.

    :raise InitError: a capability that does not exist.
    """
    bounding, effective, inheritable, permitted, ambient = (_mask(fields, name) for name in SETS)
    possible = ambient & permitted & inheritable
    if possible != ambient:
        log.warn(
            f"{fields.label('ambient')}: only what is permitted and inheritable can be ambient; the rest is left out"
        )
    return bounding, effective, inheritable, permitted, possible


def _mask(fields: Fields, name: str) -> int:
    mask = 0
    for capability in fields.texts(name) or ():
        short = capability.upper().removeprefix("CAP_")
        if short not in _NAMES:
            raise InitError(f"{fields.label(name)}: {capability!r} is no capability")
        mask |= 1 << _NAMES.index(short)
    return mask
