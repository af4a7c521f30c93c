"""A kernel module without what only debuggers read: two thirds of one, which the guest would unpack and copy twice.

Only the file shrinks. Section numbers stay, because symbols name them; a section that goes becomes SHT_NULL, which the
kernel's loader passes over (kernel/module/main.c, elf_validity_check). ELF64, little endian; anything else is returned
as it is.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

_HEADER = Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr
_SECTION = Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_MAGIC = b"\x7fELF\x02\x01"
_SIGNATURE = b"~Module signature appended~\n"

_NULL, _RELA, _STRTAB, _SYMTAB, _NOBITS = 0, 4, 3, 2, 8  # sh_type
_ALLOC = 2  # sh_flags


def without_debug(module: bytes) -> bytes:
    """Return the module with only the sections that the kernel loads or needs for loading.

    A signed module is returned as it is: another byte and its signature would be wrong.
    """
    if not module.startswith(_MAGIC) or module.endswith(_SIGNATURE):
        return module
    try:
        return _rewrite(module)
    except StructError:  # cut short: let the kernel say so
        return module


def _rewrite(module: bytes) -> bytes:
    header = list(_HEADER.unpack_from(module))
    table, entry_size, count = header[6], header[11], header[12]
    if entry_size != _SECTION.size:
        return module
    sections = [list(_SECTION.unpack_from(module, table + index * entry_size)) for index in range(count)]
    kept = [_is_kept(section, sections) for section in sections]
    parts = [bytearray(_HEADER.size)]
    size = _HEADER.size
    for section, keep in zip(sections, kept, strict=True):
        if not keep:
            section[1:] = [_NULL, 0, 0, 0, 0, 0, 0, 0, 0]
        elif section[1] not in (_NULL, _NOBITS):
            padding = -size % max(section[8], 1)
            data = module[section[4] : section[4] + section[5]]
            parts += [bytearray(padding), bytearray(data)]
            section[4] = size + padding
            size += padding + len(data)
    padding = -size % 8
    header[6] = size + padding
    parts[0] = bytearray(_HEADER.pack(*header))
    parts.append(bytearray(padding))
    return b"".join([*parts, *(_SECTION.pack(*section) for section in sections)])


def _is_kept(section: list[int], sections: list[list[int]]) -> bool:
    kind, flags, target = section[1], section[2], section[7]
    if kind == _RELA:  # goes with what it relocates
        return target < len(sections) and bool(sections[target][2] & _ALLOC)
    return bool(flags & _ALLOC) or kind in (_NULL, _STRTAB, _SYMTAB)
