"""Resource limits: their names, KRUN_RLIMITS, and the merge of all sources."""

from __future__ import annotations

import sys

from krun_init.checks import Fields, expect, number
from krun_init.errors import InitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.log import Log

INFINITY = (1 << 64) - 1

Limits = dict[int, tuple[int, int]]
"""RLIMIT number to soft and hard limit."""


def _numbered(names: str) -> dict[str, int]:
    return {f"RLIMIT_{name}": number for number, name in enumerate(names.split())}


LINUX = _numbered(  # uapi/asm-generic/resource.h
    "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"
)
FREEBSD = _numbered(  # FreeBSD's sys/resource.h, which has two names for one of them
    "CPU FSIZE DATA STACK CORE RSS MEMLOCK NPROC NOFILE SBSIZE AS NPTS SWAP KQUEUES UMTXP PIPEBUF"
)
FREEBSD["RLIMIT_VMEM"] = FREEBSD["RLIMIT_AS"]

numbers = FREEBSD if sys.platform.startswith("freebsd") else LINUX
"""Name to number, of the kernel this runs on."""


def parse_words(words: str, log: Log) -> Limits:
    """KRUN_RLIMITS: comma-separated `ID=CUR:MAX` or `ID:CUR:MAX`, quoted as a whole or one by one.

    What cannot be used is skipped with a warning.
    """
    limits: Limits = {}
    for word in words.split(","):
        item = word.strip().strip('"').strip()
        if not item:
            continue
        fields = item.replace("=", ":", 1).split(":")
        if len(fields) == 3 and all(field.isascii() and field.isdigit() and len(field) <= 20 for field in fields):
            resource, soft, hard = (int(field) for field in fields)
            if resource in numbers.values() and soft <= INFINITY and hard <= INFINITY:
                limits[resource] = (soft, hard)
                continue
        log.warn(f"KRUN_RLIMITS: {item!r} is skipped, ID=SOFT:HARD is expected")
    return limits


def from_config(entries: list[Fields]) -> Limits:
    """OCI `process.rlimits`.

    :raise InitError: an unknown name, a missing or wrong number.
    """
    limits: Limits = {}
    for entry in entries:
        name = entry.text("type")
        if name not in numbers:
            raise InitError(f"{entry.label('type')}: {name!r} is no resource limit")
        soft, hard = entry.number("soft", 0, INFINITY), entry.number("hard", 0, INFINITY)
        if soft is None or hard is None:
            raise InitError(f"{entry.where} needs both soft and hard")
        limits[numbers[name]] = (soft, hard)
    return limits


def from_start(fields: Fields) -> Limits:
    """The start data's triples."""
    limits: Limits = {}
    for index, triple in enumerate(fields.get("rlimits", list) or ()):
        label = f"{fields.label('rlimits')}[{index}]"
        if len(expect(label, triple, list)) != 3:
            raise InitError(f"{label} must be number, soft limit and hard limit")
        resource = number(label, triple[0], 0, max(numbers.values()))
        limits[resource] = (number(label, triple[1], 0, INFINITY), number(label, triple[2], 0, INFINITY))
    return limits


def merge(*sources: Limits) -> list[tuple[int, int, int]]:
    """One list for the kernel; later sources win."""
    merged: Limits = {}
    for source in sources:
        merged.update(source)
    return [(resource, soft, hard) for resource, (soft, hard) in merged.items()]


def describe(limit: tuple[int, int, int]) -> str:
    """One of `merge`'s limits, for people: its name, what was asked for, soft and hard."""
    resource, *values = limit
    soft, hard = ("unlimited" if value == INFINITY else str(value) for value in values)
    name = next(name for name, number in numbers.items() if number == resource)
    return f"{name} soft {soft}, hard {hard}"
