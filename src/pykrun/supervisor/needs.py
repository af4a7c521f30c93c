"""What a run needs and has not: a network that it can do without, an interpreter that it cannot."""

from __future__ import annotations

import os
from struct import Struct
from struct import error as StructError

from pykrun.record import replace
from pykrun.root import Root
from pykrun.supervisor.plan import Plan

_PT_INTERP = 3
_OFFSETS = Struct("<QQIHHHHHH")  # Elf64_Ehdr from e_phoff
_PROGRAM = Struct("<IIQQQQQQ")  # Elf64_Phdr
_HEAD = 4096


def with_what_there_is(plan: Plan, warnings: list[str]) -> Plan:
    """The plan without a network that it can do without and that is not to be had; a warning says so."""
    if not plan.network or not plan.network_optional:
        return plan
    from pykrun.net import passt

    if passt.find() is not None:
        return plan
    warnings.append("the guest has no network: passt is not installed")
    return replace(plan, network=False)


def missing_interpreter(root: Root, program: str | bytes | None) -> str:
    """Return the interpreter that `program`, a file of the root, names and the root does not have; else nothing.

    Such a program is there, and "does not exist".

    For ELF files that is the dynamic linker, for scripts the word after `#!`.
    """
    path = b"" if program is None else os.fsencode(program)
    file = root.files.get(path)
    if file is None or file.one_shot:
        return ""
    try:
        head = os.pread(file.content, _HEAD, 0) if isinstance(file.content, int) else b""
        if isinstance(file.content, bytes | bytearray | memoryview):
            head = bytes(file.content[:_HEAD])
        needed = _interpreter(head)
    except (OSError, StructError):
        return ""
    return os.fsdecode(needed) if needed and needed not in root.files else ""


def _interpreter(head: bytes) -> bytes:
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].split()
        return words[0] if words else b""
    if not head.startswith(b"\x7fELF\x02\x01"):
        return b""
    table, _sections, _flags, _size, entry_size, count, *_rest = _OFFSETS.unpack_from(head, 32)
    for index in range(count):
        kind, _flags, offset, _virtual, _physical, size, *_rest = _PROGRAM.unpack_from(head, table + index * entry_size)
        if kind == _PT_INTERP:
            return head[offset : offset + size].rstrip(b"\0")
    return b""
